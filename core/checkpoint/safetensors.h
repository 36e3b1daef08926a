// Tensors in safetensors files, the format that every framework reads.
//
//   ASSIGN_OR_RETURN(const SafetensorsFile file, SafetensorsFile::Open(path));
//   ASSIGN_OR_RETURN(const TensorView weight, file.Find("lm_head.weight"));

#ifndef CORE_CHECKPOINT_SAFETENSORS_H_
#define CORE_CHECKPOINT_SAFETENSORS_H_

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/base/mapped_file.h"
#include "core/tensor/tensor.h"

namespace strata {

// A file mapped into memory. Its tensors are views into the mapping: nothing is
// read before it is used, nothing may be written, and they end with this object
// (moving it keeps them). Only tensors whose data is not aligned to their
// elements, which other writers may leave, are copied when the file is opened.
class SafetensorsFile {
 public:
  // Returns the system's error if the file cannot be read, and
  // INVALID_ARGUMENT, naming the file, the tensor and the numbers, for every
  // way in which it is not a valid safetensors file.
  static absl::StatusOr<SafetensorsFile> Open(const std::string& path);

  // The same of a file whose content is `bytes`, which must outlive it.
  static absl::StatusOr<SafetensorsFile> Parse(const std::string& path,
                                               absl::string_view bytes);

  // By name.
  const std::map<std::string, TensorView>& tensors() const { return tensors_; }
  const std::map<std::string, std::string>& metadata() const {
    return metadata_;
  }
  const std::string& path() const { return path_; }

  // Returns NOT_FOUND, naming file and tensor, if there is none of that name.
  absl::StatusOr<TensorView> Find(absl::string_view name) const;

 private:
  explicit SafetensorsFile(std::string path) : path_(std::move(path)) {}

  std::string path_;
  std::optional<MappedFile> mapping_;
  std::vector<std::unique_ptr<char[]>> copies_;
  std::map<std::string, TensorView> tensors_;
  std::map<std::string, std::string> metadata_;
};

struct NamedTensor {
  std::string name;
  TensorView tensor;
};

// Writes the tensors to the file at `path`, which appears whole or not at all.
//
// Larger elements go first, then names in order of their bytes, so that all
// data is aligned and the same tensors give the same file in any order.
//
// Returns INVALID_ARGUMENT if a name is there twice, reserved or not UTF-8, and
// the system's error if the file cannot be written.
absl::Status WriteSafetensors(
    const std::string& path, absl::Span<const NamedTensor> tensors,
    const std::map<std::string, std::string>& metadata = {});

}  // namespace strata

#endif  // CORE_CHECKPOINT_SAFETENSORS_H_
