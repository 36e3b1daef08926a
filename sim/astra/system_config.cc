#include "sim/astra/system_config.h"

#include <cmath>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "core/base/status_macros.h"
#include "nlohmann/json.hpp"

namespace strata::astra {
namespace {

using Json = ::nlohmann::json;

constexpr size_t kShownBytes = 60;
// A chunk is an object of its own on each rank.
constexpr int kMaxSplits = 1 << 16;
constexpr double kMaxDelayNs = 1e15;

// Reads keys of one file, with errors that name file and key. A missing key
// leaves the default.
class Reader {
 public:
  Reader(const Json& json, absl::string_view name) : json_(json), name_(name) {}

  bool Has(const char* key) const { return json_.contains(key); }

  absl::Status Error(const char* key, absl::string_view want) const {
    return absl::InvalidArgumentError(
        absl::StrCat(name_, ": ", key, " is ",
                     json_[key]
                         .dump(-1, ' ', false, Json::error_handler_t::replace)
                         .substr(0, kShownBytes),
                     "; want ", want));
  }

  absl::Status Number(const char* key, double min, double max,
                      double& value) const {
    if (!Has(key)) return absl::OkStatus();
    if (!json_[key].is_number() || !(json_[key].get<double>() >= min) ||
        !(json_[key].get<double>() <= max)) {
      return Error(key, absl::StrCat("a number from ", min, " to ", max));
    }
    value = json_[key].get<double>();
    return absl::OkStatus();
  }

  // Fractions are cut off, as ASTRA-sim does.
  template <typename T>
  absl::Status Integer(const char* key, double min, double max,
                       T& value) const {
    double number = static_cast<double>(value);
    RETURN_IF_ERROR(Number(key, min, max, number));
    value = static_cast<T>(number);
    return absl::OkStatus();
  }

  absl::Status Flag(const char* key, bool& value) const {
    if (!Has(key)) return absl::OkStatus();
    if (json_[key].is_boolean()) {
      value = json_[key].get<bool>();
      return absl::OkStatus();
    }
    if (!json_[key].is_number()) return Error(key, "0 or 1");
    value = json_[key].get<double>() != 0;
    return absl::OkStatus();
  }

  // The key's text among `words`, as its index.
  absl::StatusOr<int> Choice(const char* key,
                             const std::vector<const char*>& words) const {
    std::string want;
    for (size_t i = 0; i < words.size(); ++i) {
      if (json_[key] == words[i]) return static_cast<int>(i);
      absl::StrAppend(&want, i == 0 ? "" : ", ", words[i]);
    }
    return Error(key, want);
  }

  absl::Status List(const char* key, Implementations& list) const;

 private:
  const Json& json_;
  absl::string_view name_;
};

absl::StatusOr<Implementation> ParseImplementation(absl::string_view text) {
  Implementation result;
  const absl::string_view whole = text;
  if (text == "ring") return result;
  if (text == "doubleBinaryTree") {
    result.kind = AlgorithmKind::kDoubleBinaryTree;
    return result;
  }
  if (text == "oneRing") {
    result.all_ranks = true;
    return result;
  }
  if (text == "halvingDoubling" || text == "oneHalvingDoubling") {
    result.kind = AlgorithmKind::kHalvingDoubling;
    result.all_ranks = text == "oneHalvingDoubling";
    return result;
  }
  result.all_ranks = absl::ConsumePrefix(&text, "oneDirect");
  if (result.all_ranks || absl::ConsumePrefix(&text, "direct")) {
    result.kind = AlgorithmKind::kDirect;
    if (text.empty()) return result;
    if (absl::SimpleAtoi(text, &result.window) && result.window >= 1) {
      return result;
    }
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "\"", whole.substr(0, kShownBytes),
      "\"; want ring, direct, direct<window>, halvingDoubling, "
      "doubleBinaryTree, oneRing, oneDirect or oneHalvingDoubling"));
}

absl::Status Reader::List(const char* key, Implementations& list) const {
  const std::string custom = absl::StrCat(key, "-custom");
  if (Has(custom.c_str())) {
    return absl::UnimplementedError(
        absl::StrCat(name_, ": ", custom, " is not simulated"));
  }
  if (!Has(key)) return absl::OkStatus();
  if (!json_[key].is_array() || json_[key].empty()) {
    return Error(key, "a list, with an algorithm for each dimension");
  }
  for (const Json& item : json_[key]) {
    if (!item.is_string()) return Error(key, "a list of names");
    const absl::StatusOr<Implementation> parsed =
        ParseImplementation(item.get_ref<const std::string&>());
    if (!parsed.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat(name_, ": ", key, " has ", parsed.status().message()));
    }
    list.push_back(*parsed);
  }
  return absl::OkStatus();
}

absl::StatusOr<Json> ParseObject(absl::string_view text,
                                 absl::string_view name) {
  Json json = Json::parse(text.begin(), text.end(), nullptr,
                          /*allow_exceptions=*/false);
  if (!json.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(name, " is no JSON object"));
  }
  return json;
}

}  // namespace

absl::StatusOr<SystemConfig> ParseSystemConfig(absl::string_view text,
                                               absl::string_view name) {
  ASSIGN_OR_RETURN(const Json json, ParseObject(text, name));
  const Reader reader(json, name);
  SystemConfig config;
  if (reader.Has("scheduling-policy")) {
    ASSIGN_OR_RETURN(
        const int choice,
        reader.Choice("scheduling-policy", {"LIFO", "FIFO", "EXPLICIT"}));
    config.scheduling_policy = static_cast<SchedulingPolicy>(choice);
  }
  if (reader.Has("collective-optimization")) {
    ASSIGN_OR_RETURN(
        const int choice,
        reader.Choice("collective-optimization", {"baseline", "localBWAware"}));
    config.local_bw_aware = choice == 1;
  }
  RETURN_IF_ERROR(reader.Integer("endpoint-delay", 0, kMaxDelayNs,
                                 config.endpoint_delay_ns));
  RETURN_IF_ERROR(reader.Integer("active-chunks-per-dimension", 1, 1e6,
                                 config.active_chunks));
  RETURN_IF_ERROR(reader.Integer("preferred-dataset-splits", 1, kMaxSplits,
                                 config.preferred_splits));
  RETURN_IF_ERROR(reader.List("all-reduce-implementation", config.all_reduce));
  RETURN_IF_ERROR(reader.List("all-gather-implementation", config.all_gather));
  RETURN_IF_ERROR(
      reader.List("reduce-scatter-implementation", config.reduce_scatter));
  RETURN_IF_ERROR(reader.List("all-to-all-implementation", config.all_to_all));
  RETURN_IF_ERROR(
      reader.Number("local-mem-bw", 1e-6, 1e12, config.local_memory_gbps));
  RETURN_IF_ERROR(reader.Flag("roofline-enabled", config.roofline));
  RETURN_IF_ERROR(reader.Number("peak-perf", 1e-9, 1e12, config.peak_tflops));
  RETURN_IF_ERROR(reader.Flag("replay-only", config.replay_only));
  bool shared_bus = false;
  RETURN_IF_ERROR(reader.Flag("model-shared-bus", shared_bus));
  if (shared_bus) {
    return absl::UnimplementedError(absl::StrCat(
        name, ": model-shared-bus is 1; a shared memory bus is not simulated"));
  }
  if (reader.Has("per-node-custom-implementation")) {
    return absl::UnimplementedError(absl::StrCat(
        name, ": per-node-custom-implementation is not simulated"));
  }
  if (config.roofline &&
      (config.peak_tflops == 0 || config.local_memory_gbps == 0)) {
    return absl::InvalidArgumentError(absl::StrCat(
        name, ": roofline-enabled wants peak-perf and local-mem-bw"));
  }
  return config;
}

absl::StatusOr<RemoteMemoryConfig> ParseRemoteMemoryConfig(
    absl::string_view text, absl::string_view name) {
  ASSIGN_OR_RETURN(const Json json, ParseObject(text, name));
  const Reader reader(json, name);
  RemoteMemoryConfig config;
  if (reader.Has("memory-type")) {
    ASSIGN_OR_RETURN(
        const int choice,
        reader.Choice("memory-type",
                      {"NO_MEMORY_EXPANSION", "PER_NODE_MEMORY_EXPANSION",
                       "PER_NPU_MEMORY_EXPANSION", "MEMORY_POOL"}));
    config.kind = static_cast<MemoryKind>(choice);
  }
  if (config.kind == MemoryKind::kNone) return config;
  RETURN_IF_ERROR(
      reader.Number("remote-mem-latency", 0, kMaxDelayNs, config.latency_ns));
  RETURN_IF_ERROR(
      reader.Number("remote-mem-bw", 0, 1e12, config.bandwidth_gbps));
  // ASTRA-sim holds both as whole numbers.
  config.latency_ns = std::trunc(config.latency_ns);
  config.bandwidth_gbps = std::trunc(config.bandwidth_gbps);
  if (config.bandwidth_gbps < 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        name, ": remote-mem-bw must be 1 GB/s at least, and whole"));
  }
  RETURN_IF_ERROR(reader.Integer("num-nodes", 0, 1e6, config.num_nodes));
  RETURN_IF_ERROR(
      reader.Integer("num-npus-per-node", 0, 1e6, config.ranks_per_node));
  if (config.kind == MemoryKind::kPerNode &&
      (config.num_nodes < 1 || config.ranks_per_node < 1)) {
    return absl::InvalidArgumentError(
        absl::StrCat(name,
                     ": PER_NODE_MEMORY_EXPANSION wants num-nodes and "
                     "num-npus-per-node"));
  }
  return config;
}

}  // namespace strata::astra
