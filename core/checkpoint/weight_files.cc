#include "core/checkpoint/weight_files.h"

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/base/check.h"
#include "core/base/files.h"
#include "core/base/status_macros.h"
#include "core/checkpoint/hf_fields.h"
#include "core/checkpoint/safetensors.h"
#include "core/checkpoint/safetensors_header.h"
#include "core/checkpoint/shards/shard_index.h"
#include "core/checkpoint/stored_tensor.h"
#include "core/quant/packed_tensors.h"
#include "core/tensor/dtype.h"
#include "core/tensor/shape.h"

namespace strata {
namespace {

bool Exists(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::exists(path, ignored);
}

// The larger elements first, so that all data is aligned.
std::vector<const TensorToWrite*> InOrder(
    const std::vector<TensorToWrite>& tensors) {
  std::vector<const TensorToWrite*> order;
  for (const TensorToWrite& tensor : tensors) order.push_back(&tensor);
  std::stable_sort(order.begin(), order.end(),
                   [](const TensorToWrite* a, const TensorToWrite* b) {
                     return SizeOf(a->dtype) > SizeOf(b->dtype);
                   });
  return order;
}

int64_t BytesOf(const TensorToWrite& tensor) {
  return NumElements(tensor.shape) * SizeOf(tensor.dtype);
}

// Writes one file; `done` are the bytes written before it.
absl::Status WriteOne(const std::string& path,
                      const std::vector<TensorToWrite>& tensors,
                      const WriteOptions& options, int64_t& done) {
  SafetensorsHeader header;
  header.metadata = options.metadata;
  // Hugging Face's loaders refuse a file that does not say so.
  header.metadata["format"] = "pt";
  int64_t end = 0;
  const std::vector<const TensorToWrite*> order = InOrder(tensors);
  for (const TensorToWrite* const tensor : order) {
    const int64_t begin = std::exchange(end, end + BytesOf(*tensor));
    const SafetensorsEntry entry = {tensor->dtype, tensor->shape, begin, end};
    if (!header.tensors.emplace(tensor->name, entry).second) {
      return absl::InvalidArgumentError(absl::StrCat("cannot write ", path,
                                                     ": two tensors are named ",
                                                     Shown(tensor->name)));
    }
  }
  ASSIGN_OR_RETURN(const std::string bytes, SerializeSafetensorsHeader(header));
  return WriteFileAtomically(path, [&](OutputFile& file) -> absl::Status {
    RETURN_IF_ERROR(file.Append(bytes));
    for (const TensorToWrite* const tensor : order) {
      const int64_t before = file.num_bytes();
      RETURN_IF_ERROR(tensor->write([&](absl::string_view piece) {
        const absl::Status status = file.Append(piece);
        done += static_cast<int64_t>(piece.size());
        if (options.progress) options.progress(done);
        return status;
      }));
      CHECK_EQ(file.num_bytes() - before, BytesOf(*tensor)) << tensor->name;
    }
    return absl::OkStatus();
  });
}

}  // namespace

absl::StatusOr<WeightFiles> WeightFiles::OpenFile(const std::string& path) {
  WeightFiles weights;
  weights.path_ = path;
  ASSIGN_OR_RETURN(SafetensorsFile file, SafetensorsFile::Open(path));
  for (const auto& [name, view] : file.tensors()) {
    weights.tensors_[name].view = view;
  }
  weights.files_.push_back(std::move(file));
  RETURN_IF_ERROR(MergePackedTensors(path, weights.tensors_));
  return weights;
}

absl::StatusOr<WeightFiles> WeightFiles::Open(const std::string& folder,
                                              const std::string& file) {
  const std::string single = absl::StrCat(folder, "/", file);
  if (Exists(single)) return OpenFile(single);
  const std::string index_name = IndexOf(file);
  WeightFiles weights;
  weights.path_ = absl::StrCat(folder, "/", index_name);
  if (!Exists(weights.path_)) {
    return absl::NotFoundError(absl::StrCat(folder, " holds no weights; want ",
                                            file, " or ", index_name));
  }
  ASSIGN_OR_RETURN(const ShardIndex index, ReadShardIndex(weights.path_));
  std::set<std::string> names;
  for (const auto& [tensor, name] : index.file_of) names.insert(name);
  std::map<std::string, std::string> found_in;
  for (const std::string& name : names) {
    const std::string path = absl::StrCat(folder, "/", name);
    if (!Exists(path)) {
      return absl::NotFoundError(absl::StrCat("shard ", path, " is missing; ",
                                              index_name, " lists it"));
    }
    ASSIGN_OR_RETURN(SafetensorsFile shard, SafetensorsFile::Open(path));
    const auto of = shard.metadata().find(kCheckpointKey);
    RETURN_IF_ERROR(
        CheckListedFile(weights.path_, index, name,
                        of == shard.metadata().end() ? "" : of->second));
    for (const auto& [tensor, view] : shard.tensors()) {
      const auto [at, is_first] = found_in.emplace(tensor, name);
      if (!is_first) {
        return absl::InvalidArgumentError(
            absl::StrCat(path, ": tensor ", Shown(tensor), " is in ",
                         at->second, " too; want it in one shard"));
      }
      const auto listed = index.file_of.find(tensor);
      if (listed == index.file_of.end() || listed->second != name) {
        return absl::InvalidArgumentError(
            absl::StrCat(path, ": tensor ", Shown(tensor), " is here, but ",
                         index_name, " has it ",
                         listed == index.file_of.end()
                             ? "nowhere"
                             : absl::StrCat("in ", listed->second)));
      }
      weights.tensors_[tensor].view = view;
    }
    weights.files_.push_back(std::move(shard));
  }
  for (const auto& [tensor, name] : index.file_of) {
    if (found_in.count(tensor) > 0) continue;
    return absl::InvalidArgumentError(
        absl::StrCat(folder, "/", name, ": tensor ", Shown(tensor),
                     " is missing; ", index_name, " has it there"));
  }
  RETURN_IF_ERROR(MergePackedTensors(folder, weights.tensors_));
  return weights;
}

std::vector<std::string> WeightFiles::paths() const {
  std::vector<std::string> paths;
  for (const SafetensorsFile& file : files_) paths.push_back(file.path());
  return paths;
}

absl::Status WriteWeightsFile(const std::string& path,
                              const std::vector<TensorToWrite>& tensors,
                              const WriteOptions& options) {
  int64_t done = 0;
  return WriteOne(path, tensors, options, done);
}

absl::Status WriteWeights(const std::string& folder,
                          const std::vector<TensorToWrite>& tensors,
                          const WriteOptions& options) {
  std::vector<std::vector<TensorToWrite>> shards(1);
  int64_t in_shard = 0, total = 0;
  for (const TensorToWrite& tensor : tensors) {
    const int64_t bytes = BytesOf(tensor);
    if (in_shard > 0 && in_shard + bytes > options.max_shard_bytes) {
      shards.emplace_back();
      in_shard = 0;
    }
    shards.back().push_back(tensor);
    in_shard += bytes;
    total += bytes;
  }
  int64_t done = 0;
  if (shards.size() == 1) {
    return WriteOne(absl::StrCat(folder, "/", kWeightsFile), tensors, options,
                    done);
  }
  ShardIndex index;
  index.total_size = total;
  const int num_shards = static_cast<int>(shards.size());
  for (int i = 0; i < num_shards; ++i) {
    const std::string name = ShardOf(kWeightsFile, i, num_shards);
    RETURN_IF_ERROR(
        WriteOne(absl::StrCat(folder, "/", name), shards[i], options, done));
    for (const TensorToWrite& tensor : shards[i]) {
      if (!index.file_of.emplace(tensor.name, name).second) {
        return absl::InvalidArgumentError(
            absl::StrCat("cannot write ", folder, ": two tensors are named ",
                         Shown(tensor.name)));
      }
    }
  }
  return WriteFileAtomically(absl::StrCat(folder, "/", kWeightsIndexFile),
                             ToText(index));
}

}  // namespace strata
