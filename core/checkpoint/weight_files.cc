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
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "core/base/check.h"
#include "core/base/files.h"
#include "core/base/status_macros.h"
#include "core/checkpoint/hf_fields.h"
#include "core/checkpoint/safetensors.h"
#include "core/checkpoint/safetensors_header.h"
#include "core/checkpoint/stored_tensor.h"
#include "core/model/proto_json.h"
#include "core/quant/packed_tensors.h"
#include "core/tensor/dtype.h"
#include "core/tensor/shape.h"
#include "nlohmann/json.hpp"

namespace strata {
namespace {

// Hugging Face's loaders refuse a file that does not say so.
const std::map<std::string, std::string>& Metadata() {
  static const auto* const kMetadata =
      new std::map<std::string, std::string>{{"format", "pt"}};
  return *kMetadata;
}

bool Exists(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::exists(path, ignored);
}

// A file beside the index, by a name that leads nowhere else.
bool IsPlainName(const std::string& name) {
  return !name.empty() && name != "." && name != ".." &&
         !absl::StrContains(name, '/') && !absl::StrContains(name, '\\') &&
         name.find('\0') == std::string::npos;
}

// Tensor -> file.
absl::StatusOr<std::map<std::string, std::string>> ReadIndex(
    const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  const auto error = [&](absl::string_view what) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": ", what));
  };
  const absl::StatusOr<nlohmann::json> json = ParseJson(text);
  if (!json.ok()) return error(json.status().message());
  if (!json->is_object() || !json->contains("weight_map") ||
      !json->at("weight_map").is_object()) {
    return error("want an object with the object \"weight_map\"");
  }
  std::map<std::string, std::string> file_of;
  for (const auto& [tensor, file] : json->at("weight_map").items()) {
    if (!file.is_string() || !IsPlainName(file.get<std::string>())) {
      return error(absl::StrCat("tensor ", Shown(tensor),
                                " is in no file; want the name of a file "
                                "beside the index"));
    }
    file_of[tensor] = file.get<std::string>();
  }
  return file_of;
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
  header.metadata = Metadata();
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
  ASSIGN_OR_RETURN(SafetensorsFile file, SafetensorsFile::Open(path));
  for (const auto& [name, view] : file.tensors()) {
    weights.tensors_[name].view = view;
  }
  weights.files_.push_back(std::move(file));
  RETURN_IF_ERROR(MergePackedTensors(path, weights.tensors_));
  return weights;
}

absl::StatusOr<WeightFiles> WeightFiles::Open(const std::string& folder) {
  const std::string single = absl::StrCat(folder, "/", kWeightsFile);
  if (Exists(single)) return OpenFile(single);
  const std::string index = absl::StrCat(folder, "/", kWeightsIndexFile);
  if (!Exists(index)) {
    return absl::NotFoundError(absl::StrCat(folder, " holds no weights; want ",
                                            kWeightsFile, " or ",
                                            kWeightsIndexFile));
  }
  ASSIGN_OR_RETURN(const auto file_of, ReadIndex(index));
  std::set<std::string> names;
  for (const auto& [tensor, file] : file_of) names.insert(file);
  WeightFiles weights;
  std::map<std::string, std::string> found_in;
  for (const std::string& name : names) {
    const std::string path = absl::StrCat(folder, "/", name);
    if (!Exists(path)) {
      return absl::NotFoundError(absl::StrCat("shard ", path, " is missing; ",
                                              kWeightsIndexFile, " lists it"));
    }
    ASSIGN_OR_RETURN(SafetensorsFile file, SafetensorsFile::Open(path));
    for (const auto& [tensor, view] : file.tensors()) {
      const auto [at, is_first] = found_in.emplace(tensor, name);
      if (!is_first) {
        return absl::InvalidArgumentError(
            absl::StrCat(path, ": tensor ", Shown(tensor), " is in ",
                         at->second, " too; want it in one shard"));
      }
      const auto listed = file_of.find(tensor);
      if (listed == file_of.end() || listed->second != name) {
        return absl::InvalidArgumentError(absl::StrCat(
            path, ": tensor ", Shown(tensor), " is here, but ",
            kWeightsIndexFile, " has it ",
            listed == file_of.end() ? "nowhere"
                                    : absl::StrCat("in ", listed->second)));
      }
      weights.tensors_[tensor].view = view;
    }
    weights.files_.push_back(std::move(file));
  }
  for (const auto& [tensor, file] : file_of) {
    if (found_in.count(tensor) > 0) continue;
    return absl::InvalidArgumentError(
        absl::StrCat(folder, "/", file, ": tensor ", Shown(tensor),
                     " is missing; ", kWeightsIndexFile, " has it there"));
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
  nlohmann::ordered_json index;
  index["metadata"]["total_size"] = total;
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string name =
        absl::StrFormat("model-%05d-of-%05d.safetensors", i + 1, shards.size());
    RETURN_IF_ERROR(
        WriteOne(absl::StrCat(folder, "/", name), shards[i], options, done));
    for (const TensorToWrite& tensor : shards[i]) {
      if (index["weight_map"].contains(tensor.name)) {
        return absl::InvalidArgumentError(
            absl::StrCat("cannot write ", folder, ": two tensors are named ",
                         Shown(tensor.name)));
      }
      index["weight_map"][tensor.name] = name;
    }
  }
  return WriteFileAtomically(absl::StrCat(folder, "/", kWeightsIndexFile),
                             JsonText(index));
}

}  // namespace strata
