// The index of tensors in several files, as Hugging Face has it, and what ours
// says beyond: which save the files are of, and what is in each.
//
//   {"metadata": {"total_size": bytes,
//                 "checkpoint": "step 100 of run 3fa2b1",
//                 "files": {"model-00001-of-00004.safetensors":
//                               {"bytes": n, "sha256": "..."}, ...}},
//    "weight_map": {"tensor": "file", ...}}
//
// The files of a save say the same in their own metadata, so that one which is
// older, or of another run, is known by its header; what is in them by the sum.

#ifndef CORE_CHECKPOINT_SHARDS_SHARD_INDEX_H_
#define CORE_CHECKPOINT_SHARDS_SHARD_INDEX_H_

#include <cstdint>
#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace strata {

// The key of a file's own metadata.
inline constexpr char kCheckpointKey[] = "checkpoint";

struct ShardIndex {
  struct File {
    int64_t num_bytes = 0;
    std::string sha256;
  };

  std::map<std::string, std::string> file_of;  // Of each tensor.
  int64_t total_size = 0;                      // Of all tensors, in bytes.
  std::string checkpoint;                      // Empty: does not say.
  std::map<std::string, File> files;           // Empty: likewise.
};

// "model.safetensors" -> "model.safetensors.index.json".
std::string IndexOf(absl::string_view file);
// "model.safetensors" -> "model-00002-of-00004.safetensors" for i = 1, n = 4.
std::string ShardOf(absl::string_view file, int i, int n);

std::string ToText(const ShardIndex& index);

// Returns INVALID_ARGUMENT, with the path and what is wrong, if the file is no
// index, or has a tensor in no file beside it.
absl::StatusOr<ShardIndex> ReadShardIndex(const std::string& path);

// That the file `name` beside the index at `path` is what it lists: there, as
// long, and of the same save. `checkpoint` is what the file says of itself.
//
// Returns NOT_FOUND or INVALID_ARGUMENT, with the file's path.
absl::Status CheckListedFile(const std::string& path, const ShardIndex& index,
                             const std::string& name,
                             const std::string& checkpoint);

// Reads each `parts`-th file that the index lists, from file `part` on, and
// holds it to its sum.
//
// Returns INVALID_ARGUMENT, with the path of one that differs.
absl::Status CheckListedSums(const std::string& path, const ShardIndex& index,
                             int part, int parts);

// What HashWeights (core/checkpoint/model_files.h) would find, by the sums that
// the index lists; "" if it lists none.
std::string ListedHash(const ShardIndex& index);

}  // namespace strata

#endif  // CORE_CHECKPOINT_SHARDS_SHARD_INDEX_H_
