#include "sim/replay/machine_times.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/base/status_macros.h"
#include "nlohmann/json.hpp"
#include "sim/chakra/chakra.pb.h"
#include "sim/chakra/check.h"
#include "sim/chakra/workload.h"
#include "sim/cluster/cluster.h"
#include "sim/cluster/cluster.pb.h"
#include "sim/cluster/load_cluster.h"
#include "sim/replay/trace_plan.h"

namespace strata::sim {
namespace {

using ::strata::chakra::TraceNode;

constexpr double kMicrosecond = 1e-6;
constexpr double kMaxGbPerSecond = 1e6;
// Rounds of coordinate descent; it ends in far fewer.
constexpr int kMaxRounds = 10000;
constexpr double kConverged = 1e-9;  // Of the relative error.

// What a time is proportional to: of an operator 1, FLOPs and bytes; of a
// collective steps, nothing and bytes.
using Features = std::array<double, 3>;

struct Times {
  double seconds = 0;  // Of all together.
  int64_t count = 0;
};
using Samples = std::map<Features, Times>;

std::string OperatorOf(const TraceNode& node) {
  return node.name.substr(0, node.name.find(' '));
}

double Seconds(const TraceNode& node) {
  return kMicrosecond * static_cast<double>(node.duration_us);
}

bool IsComputation(const TraceNode& node) {
  return node.type == ChakraProtoMsg::COMP_NODE && node.duration_us > 0;
}

Features FeaturesOf(const TraceNode& node) {
  return {1, static_cast<double>(node.num_ops.value_or(0)),
          static_cast<double>(node.tensor_bytes.value_or(0))};
}

// Steps and bytes that a rank sends.
Features FeaturesOf(const Joint& joint) {
  const auto n = static_cast<double>(joint.nodes.size());
  const auto bytes = static_cast<double>(joint.bytes);
  switch (joint.type) {
    case ChakraProtoMsg::ALL_REDUCE:
    case ChakraProtoMsg::BARRIER:
      return {2 * (n - 1), 0, 2 * (n - 1) / n * bytes};
    case ChakraProtoMsg::ALL_GATHER:  // Of a shard.
      return {n - 1, 0, (n - 1) * bytes};
    default:
      return {n - 1, 0, (n - 1) / n * bytes};
  }
}

// One coefficient after the other, each the best for the others, until none
// moves.
Features Fit(const Samples& samples) {
  std::array<Features, 3> products = {};
  Features towards = {};
  double weights = 0;
  for (const auto& [features, times] : samples) {
    const double mean = times.seconds / static_cast<double>(times.count);
    const double weight = times.seconds;
    weights += weight;
    for (int k = 0; k < 3; ++k) {
      towards[k] += weight * features[k] / mean;
      for (int l = 0; l < 3; ++l) {
        products[k][l] += weight * features[k] / mean * features[l] / mean;
      }
    }
  }
  Features x = {};
  for (int round = 0; round < kMaxRounds; ++round) {
    double moved = 0;
    for (int k = 0; k < 3; ++k) {
      if (products[k][k] == 0) continue;
      double rest = towards[k];
      for (int l = 0; l < 3; ++l) {
        if (l != k) rest -= products[k][l] * x[l];
      }
      const double next = std::max(0.0, rest / products[k][k]);
      // In the error's unit, so that moves can be compared.
      moved = std::max(
          moved, std::abs(next - x[k]) * std::sqrt(products[k][k] / weights));
      x[k] = next;
    }
    if (moved < kConverged) break;
  }
  // Relative errors are least a little below what is uneven.
  double fitted = 0;
  for (const auto& [features, times] : samples) {
    for (int k = 0; k < 3; ++k) {
      fitted += static_cast<double>(times.count) * x[k] * features[k];
    }
  }
  if (fitted > 0) {
    for (double& coefficient : x) coefficient *= weights / fitted;
  }
  return x;
}

void Add(const Features& features, double seconds, Samples& samples) {
  Times& times = samples[features];
  times.seconds += seconds;
  ++times.count;
}

absl::Status AddCollectives(const chakra::Workload& workload,
                            Samples& samples) {
  ASSIGN_OR_RETURN(const TracePlan plan, PlanTraces(workload));
  for (const Joint& joint : plan.joints) {
    double least = Seconds(plan.Node(joint.nodes[0]));
    for (const NodeIndex node : joint.nodes) {
      least = std::min(least, Seconds(plan.Node(node)));
    }
    // Less than a microsecond cannot be seen.
    Add(FeaturesOf(joint), std::max(least, kMicrosecond / 2), samples);
  }
  return absl::OkStatus();
}

// 0 or more; -1: no such number.
double Number(const nlohmann::json& object, const char* key) {
  const auto found = object.is_object() ? object.find(key) : object.end();
  if (found == object.end() || !found->is_number()) return -1;
  const auto value = found->get<double>();
  return std::isfinite(value) ? value : -1;
}

}  // namespace

absl::StatusOr<MachineTimes> FitMachineTimes(
    const std::vector<chakra::Workload>& workloads) {
  std::map<std::string, Samples> by_operator;
  Samples collectives;
  for (const chakra::Workload& workload : workloads) {
    RETURN_IF_ERROR(
        chakra::CheckWorkload(workload, chakra::TraceRules::kReplay));
    RETURN_IF_ERROR(AddCollectives(workload, collectives));
    for (const chakra::RankTrace& rank : workload.ranks) {
      for (const TraceNode& node : rank.nodes) {
        if (!IsComputation(node)) continue;
        Add(FeaturesOf(node), Seconds(node), by_operator[OperatorOf(node)]);
      }
    }
  }
  if (by_operator.empty()) {
    return absl::InvalidArgumentError(
        "no computation of the traces has a duration");
  }
  MachineTimes times;
  for (const auto& [name, samples] : by_operator) {
    const Features x = Fit(samples);
    times.operators[name] = {x[0], x[1], x[2]};
  }
  if (!collectives.empty()) {
    const Features x = Fit(collectives);
    times.step_seconds = x[0];
    times.seconds_per_byte = x[2];
  }
  return times;
}

double SetOperatorTimes(const MachineTimes& times, chakra::Workload& workload) {
  double all = 0;
  double unknown = 0;
  for (chakra::RankTrace& rank : workload.ranks) {
    for (TraceNode& node : rank.nodes) {
      if (!IsComputation(node)) continue;
      all += Seconds(node);
      const auto found = times.operators.find(OperatorOf(node));
      if (found == times.operators.end()) {
        unknown += Seconds(node);
        continue;
      }
      const OperatorTime& time = found->second;
      const Features features = FeaturesOf(node);
      const double seconds = time.seconds +
                             time.seconds_per_flop * features[1] +
                             time.seconds_per_byte * features[2];
      node.duration_us = static_cast<uint64_t>(
          std::max<int64_t>(1, std::llround(seconds / kMicrosecond)));
    }
  }
  return all > 0 ? unknown / all : 0;
}

absl::StatusOr<Cluster> MachineCluster(const MachineTimes& times,
                                       int num_ranks) {
  ClusterConfig config;
  config.set_name("this machine");
  ASSIGN_OR_RETURN(*config.add_kind(), NodePreset("h100"));
  NodeConfig& node = *config.mutable_kind(0);
  node.set_name("machine");
  node.set_num_gpus(num_ranks);
  node.mutable_gpu()->set_name("core");
  node.mutable_gpu()->clear_watts();
  node.mutable_gpu()->clear_dollars_per_hour();
  node.clear_host_watts();
  NodeGroup& group = *config.add_nodes();
  group.set_kind("machine");
  group.set_count(1);
  DimensionConfig& network = *config.add_dimension();
  network.set_kind(DimensionConfig::SWITCH);
  network.set_size(num_ranks);
  network.set_gb_per_s(std::min(
      kMaxGbPerSecond, 1e-9 / std::max(1e-18, times.seconds_per_byte)));
  network.set_latency_us(times.step_seconds / kMicrosecond);
  return Cluster::Create(config);
}

std::string ToJson(const MachineTimes& times) {
  nlohmann::json json;
  for (const auto& [name, time] : times.operators) {
    json["operators"][name] = {{"seconds", time.seconds},
                               {"seconds_per_flop", time.seconds_per_flop},
                               {"seconds_per_byte", time.seconds_per_byte}};
  }
  json["network"] = {{"step_seconds", times.step_seconds},
                     {"seconds_per_byte", times.seconds_per_byte}};
  return json.dump(1, ' ', false, nlohmann::json::error_handler_t::replace) +
         "\n";
}

absl::StatusOr<MachineTimes> ParseMachineTimes(absl::string_view text,
                                               absl::string_view name) {
  const auto json = nlohmann::json::parse(text.begin(), text.end(), nullptr,
                                          /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("operators") ||
      !json["operators"].is_object() || !json.contains("network")) {
    return absl::InvalidArgumentError(absl::StrCat(
        name,
        " is no calibration of a machine; want what strata calibrate "
        "--traces wrote"));
  }
  MachineTimes times;
  times.step_seconds = Number(json["network"], "step_seconds");
  times.seconds_per_byte = Number(json["network"], "seconds_per_byte");
  double least = std::min(times.step_seconds, times.seconds_per_byte);
  for (const auto& [key, value] : json["operators"].items()) {
    const OperatorTime time = {Number(value, "seconds"),
                               Number(value, "seconds_per_flop"),
                               Number(value, "seconds_per_byte")};
    least = std::min(
        {least, time.seconds, time.seconds_per_flop, time.seconds_per_byte});
    times.operators[key] = time;
  }
  if (least < 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        name,
        " lacks a time, or has one below 0; want what strata calibrate "
        "--traces wrote"));
  }
  return times;
}

}  // namespace strata::sim
