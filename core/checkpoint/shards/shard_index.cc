#include "core/checkpoint/shards/shard_index.h"

#include <cstdint>
#include <filesystem>
#include <string>
#include <system_error>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "core/base/files.h"
#include "core/base/mapped_file.h"
#include "core/base/sha256.h"
#include "core/base/status_macros.h"
#include "core/checkpoint/hf_fields.h"
#include "core/model/proto_json.h"
#include "nlohmann/json.hpp"

namespace strata {
namespace {

namespace fs = std::filesystem;

// A file beside the index, by a name that leads nowhere else.
bool IsPlainName(const std::string& name) {
  return !name.empty() && name != "." && name != ".." &&
         !absl::StrContains(name, '/') && !absl::StrContains(name, '\\') &&
         name.find('\0') == std::string::npos;
}

std::string Beside(const std::string& index, const std::string& name) {
  return (fs::path(index).parent_path() / name).string();
}

std::string NameOf(const std::string& path) {
  return fs::path(path).filename().string();
}

// What ours says beyond; of others nothing.
absl::Status ReadMetadata(const nlohmann::json& metadata, ShardIndex& index) {
  const auto wrong = [](absl::string_view what) {
    return absl::InvalidArgumentError(absl::StrCat("metadata: want ", what));
  };
  const auto checkpoint = metadata.find(kCheckpointKey);
  if (checkpoint != metadata.end()) {
    if (!checkpoint->is_string()) return wrong("the text \"checkpoint\"");
    index.checkpoint = checkpoint->get<std::string>();
  }
  const auto files = metadata.find("files");
  if (files == metadata.end()) return absl::OkStatus();
  if (!files->is_object()) return wrong("the object \"files\"");
  for (const auto& [name, file] : files->items()) {
    if (!IsPlainName(name) || !file.is_object() || !file.contains("bytes") ||
        !file["bytes"].is_number_integer() || !file.contains("sha256") ||
        !file["sha256"].is_string()) {
      return wrong("bytes and sha256 of files beside the index");
    }
    index.files[name] = {file["bytes"].get<int64_t>(),
                         file["sha256"].get<std::string>()};
  }
  return absl::OkStatus();
}

}  // namespace

std::string IndexOf(absl::string_view file) {
  return absl::StrCat(file, ".index.json");
}

std::string ShardOf(absl::string_view file, int i, int n) {
  constexpr absl::string_view kEnding = ".safetensors";
  return absl::StrFormat("%s-%05d-of-%05d%s", absl::StripSuffix(file, kEnding),
                         i + 1, n, kEnding);
}

std::string ToText(const ShardIndex& index) {
  nlohmann::ordered_json json;
  nlohmann::ordered_json& metadata = json["metadata"];
  metadata["total_size"] = index.total_size;
  if (!index.checkpoint.empty()) metadata[kCheckpointKey] = index.checkpoint;
  for (const auto& [name, file] : index.files) {
    metadata["files"][name] = {{"bytes", file.num_bytes},
                               {"sha256", file.sha256}};
  }
  json["weight_map"] = nlohmann::ordered_json::object();
  for (const auto& [tensor, file] : index.file_of) {
    json["weight_map"][tensor] = file;
  }
  return JsonText(json);
}

absl::StatusOr<ShardIndex> ReadShardIndex(const std::string& path) {
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
  ShardIndex index;
  for (const auto& [tensor, file] : json->at("weight_map").items()) {
    if (!file.is_string() || !IsPlainName(file.get<std::string>())) {
      return error(absl::StrCat("tensor ", Shown(tensor),
                                " is in no file; want the name of a file "
                                "beside the index"));
    }
    index.file_of[tensor] = file.get<std::string>();
  }
  if (json->contains("metadata") && json->at("metadata").is_object()) {
    const absl::Status read = ReadMetadata(json->at("metadata"), index);
    if (!read.ok()) return error(read.message());
  }
  return index;
}

absl::Status CheckListedFile(const std::string& path, const ShardIndex& index,
                             const std::string& name,
                             const std::string& checkpoint) {
  const std::string file = Beside(path, name);
  if (checkpoint != index.checkpoint && !index.checkpoint.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(file, " is of ",
                     checkpoint.empty() ? "no checkpoint of a run" : checkpoint,
                     "; ", NameOf(path), " is of ", index.checkpoint));
  }
  const auto listed = index.files.find(name);
  if (listed == index.files.end()) return absl::OkStatus();
  std::error_code error;
  const auto size = fs::file_size(file, error);
  if (error) return FileError(error.value(), "look at", file);
  if (static_cast<int64_t>(size) == listed->second.num_bytes) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat(file, " has ", size, " bytes; ", NameOf(path), " lists ",
                   listed->second.num_bytes));
}

absl::Status CheckListedSums(const std::string& path, const ShardIndex& index,
                             int part, int parts) {
  int i = 0;
  for (const auto& [name, listed] : index.files) {
    if (i++ % parts != part) continue;
    const std::string file = Beside(path, name);
    ASSIGN_OR_RETURN(const MappedFile mapped, MappedFile::Open(file));
    const std::string sum = Sha256Hex(mapped.bytes());
    if (sum == listed.sha256) continue;
    return absl::InvalidArgumentError(absl::StrCat(file, " has the SHA-256 ",
                                                   sum, "; ", NameOf(path),
                                                   " lists ", listed.sha256));
  }
  return absl::OkStatus();
}

std::string ListedHash(const ShardIndex& index) {
  std::string sums;
  for (const auto& [name, file] : index.files) sums += file.sha256;
  return index.files.size() > 1 ? Sha256Hex(sums) : sums;
}

}  // namespace strata
