// The weights of a model folder: one safetensors file, or the shards that an
// index lists.
//
//   model.safetensors
// or
//   model.safetensors.index.json   {"metadata": {"total_size": bytes},
//                                   "weight_map": {"tensor": "file", ...}}
//   model-00001-of-00003.safetensors ...
//
// Our own index says more (core/checkpoint/shards/shard_index.h).

#ifndef CORE_CHECKPOINT_WEIGHT_FILES_H_
#define CORE_CHECKPOINT_WEIGHT_FILES_H_

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/checkpoint/safetensors.h"
#include "core/checkpoint/stored_tensor.h"
#include "core/tensor/dtype.h"
#include "core/tensor/shape.h"

namespace strata {

inline constexpr char kWeightsFile[] = "model.safetensors";
inline constexpr char kWeightsIndexFile[] = "model.safetensors.index.json";

// Mapped, so nothing is read before it is used. Tensors end with this object.
class WeightFiles {
 public:
  // Where there are both, the single file counts, as for Hugging Face. `file`
  // is how the single one is called.
  //
  // Returns NOT_FOUND if the folder has neither; INVALID_ARGUMENT, naming file
  // and tensor, if a file is no valid safetensors file, the index is no valid
  // index, a shard is missing, a tensor is in two shards, index and shards
  // differ in what lies where, or a shard is of another save than the index.
  static absl::StatusOr<WeightFiles> Open(
      const std::string& folder, const std::string& file = kWeightsFile);
  // One safetensors file.
  static absl::StatusOr<WeightFiles> OpenFile(const std::string& path);

  const StoredTensors& tensors() const { return tensors_; }
  // The single file, or the index.
  const std::string& path() const { return path_; }
  // The paths that were read.
  std::vector<std::string> paths() const;

 private:
  std::string path_;
  std::vector<SafetensorsFile> files_;
  StoredTensors tensors_;
};

// A tensor to be written: what it is, and who gives its bytes when its turn
// comes.
struct TensorToWrite {
  std::string name;
  DType dtype = DType::kF32;
  Shape shape;
  // Appends all the tensor's bytes, in any number of pieces.
  using Append = absl::FunctionRef<absl::Status(absl::string_view bytes)>;
  std::function<absl::Status(Append append)> write;
};

struct WriteOptions {
  int64_t max_shard_bytes = 5'000'000'000;
  // Sees the bytes written so far, often.
  std::function<void(int64_t num_bytes)> progress;
  // What each file says of itself.
  std::map<std::string, std::string> metadata;
};

// Writes the tensors into the folder: in one file if they fit, else in shards
// with an index. Tensors keep their order as far as shards go; a tensor larger
// than a shard has one of its own. Holds no more than a piece in memory.
//
// Returns INVALID_ARGUMENT if a name is there twice, reserved or not UTF-8, and
// the errors of `write` and of the system.
absl::Status WriteWeights(const std::string& folder,
                          const std::vector<TensorToWrite>& tensors,
                          const WriteOptions& options);

// One file of them.
absl::Status WriteWeightsFile(const std::string& path,
                              const std::vector<TensorToWrite>& tensors,
                              const WriteOptions& options);

}  // namespace strata

#endif  // CORE_CHECKPOINT_WEIGHT_FILES_H_
