#include "sim/report/step_report.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "core/base/status_macros.h"
#include "core/parallel/pipeline_schedule.h"
#include "nlohmann/json.hpp"
#include "sim/memory/footprint.h"
#include "sim/workload/layout.h"

namespace strata::sim {
namespace {

constexpr double kGiB = static_cast<double>(int64_t{1} << 30);
constexpr int kBarColumns = 30;

std::string Bar(double share) {
  const int filled = static_cast<int>(std::lround(share * kBarColumns));
  return std::string(std::clamp(filled, 0, kBarColumns), '#');
}

nlohmann::ordered_json ToJson(const Footprint& f) {
  return {{"weights", f.weights},     {"gradients", f.gradients},
          {"optimizer", f.optimizer}, {"activations", f.activations},
          {"kv_cache", f.kv_cache},   {"buffers", f.buffers},
          {"total", f.total()},       {"capacity", f.capacity},
          {"fits", f.fits()}};
}

// A member of an object, of the type that is wanted.
absl::StatusOr<double> Number(const nlohmann::json& json,
                              const std::string& name) {
  const auto it = json.find(name);
  if (it == json.end() || !it->is_number()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "no number \"", name, "\"; want what simulate --json prints"));
  }
  return it->get<double>();
}

absl::StatusOr<std::map<std::string, double>> PartsOf(
    const nlohmann::json& json) {
  const auto it = json.find("parts");
  if (it == json.end() || !it->is_array()) {
    return absl::InvalidArgumentError(
        "no list \"parts\"; want what simulate --json prints");
  }
  std::map<std::string, double> parts;
  for (const nlohmann::json& part : *it) {
    if (!part.is_object() || !part.contains("name") ||
        !part["name"].is_string()) {
      return absl::InvalidArgumentError("a part has no name");
    }
    ASSIGN_OR_RETURN(const double seconds, Number(part, "seconds"));
    parts[part["name"].get<std::string>()] += seconds;
  }
  return parts;
}

std::string Change(double a, double b) {
  return a > 0 ? absl::StrFormat("%+.1f %%", 100 * (b / a - 1)) : "";
}

}  // namespace

std::string Summary(const StepReport& report) {
  const StepResult& r = report.result;
  const Layout& layout = report.inputs.layout;
  std::string text =
      absl::StrFormat("%s on %d x %s\n%s, %s, %d micro-batches a replica\n\n",
                      report.scenario.model, report.inputs.machine.num_gpus,
                      report.inputs.machine.gpu, ToString(layout),
                      report.scenario.schedule, layout.MicroBatches());
  absl::StrAppendFormat(
      &text, "step          %.4g s  (%s)\n", r.seconds,
      r.error_share > 0
          ? absl::StrFormat("calibration +-%.0f %%", 100 * r.error_share)
          : "no error band: no kernel's shape was measured");
  absl::StrAppendFormat(&text,
                        "throughput    %.0f tokens/s/GPU, %.4g M tokens/s\n",
                        r.tokens_per_second_per_gpu, r.tokens_per_second / 1e6);
  absl::StrAppendFormat(
      &text,
      "utilisation   %.1f %% MFU, %.0f TFLOP/s/GPU (causal attention; %.1f %%, "
      "%.0f counting all pairs)\n",
      100 * r.mfu_causal, r.tflops_per_gpu_causal, 100 * r.mfu_full,
      r.tflops_per_gpu_full);
  absl::StrAppendFormat(&text,
                        "cost          $%.4g, %.4g kWh a step; %.4g GPU "
                        "hours per 10^12 tokens\n",
                        r.dollars, r.kwh,
                        1e12 / r.tokens_per_second_per_gpu / 3600);
  absl::StrAppend(&text, "memory        ", Verdict(r.memory), "\n");

  absl::StrAppend(&text, "\nwhere the time goes (the busiest stage)\n");
  for (const StepPart& part : r.parts) {
    absl::StrAppendFormat(&text, "  %-30s %9.4f s %5.1f %%  %s\n", part.name,
                          part.seconds, 100 * part.seconds / r.seconds,
                          Bar(part.seconds / r.seconds));
  }
  absl::StrAppendFormat(&text, "pipeline idle over all stages %.1f %%\n",
                        100 * r.bubble_share);
  if (r.expert_max_over_mean > 1 + 1e-9) {
    absl::StrAppendFormat(
        &text,
        "experts' loads (%s): the busiest rank has %.2f times the mean, which "
        "costs %.4f s\n",
        report.inputs.loads.origin, r.expert_max_over_mean,
        r.imbalance_seconds);
  }
  if (!report.inputs.machine.slowdown.empty()) {
    absl::StrAppendFormat(&text, "slow ranks cost %.4f s\n",
                          r.straggler_seconds);
  }
  absl::StrAppend(&text, "\ncritical path: ", r.critical_path, "\n");
  for (const std::string& warning : r.warnings) {
    absl::StrAppend(&text, "warning: ", warning, "\n");
  }
  return text;
}

nlohmann::ordered_json ToJson(const StepReport& report) {
  const StepResult& r = report.result;
  nlohmann::ordered_json json;
  json["model"] = report.scenario.model;
  json["cluster"] = report.scenario.cluster;
  json["gpus"] = report.inputs.machine.num_gpus;
  json["layout"] = ToString(report.inputs.layout);
  json["schedule"] = report.scenario.schedule;
  json["framework"] = report.inputs.software.framework;
  json["loads"] = report.inputs.loads.origin;
  json["slow"] = nlohmann::ordered_json::array();
  for (const auto& [rank, factor] : report.scenario.slow) {
    json["slow"].push_back({{"rank", rank}, {"factor", factor}});
  }
  json["seconds"] = r.seconds;
  json["error_share"] = r.error_share;
  json["outside_share"] = r.outside_share;
  json["tokens_per_second"] = r.tokens_per_second;
  json["tokens_per_second_per_gpu"] = r.tokens_per_second_per_gpu;
  json["flops_causal"] = r.flops_causal;
  json["flops_full"] = r.flops_full;
  json["tflops_per_gpu_causal"] = r.tflops_per_gpu_causal;
  json["tflops_per_gpu_full"] = r.tflops_per_gpu_full;
  json["mfu_causal"] = r.mfu_causal;
  json["mfu_full"] = r.mfu_full;
  json["dollars"] = r.dollars;
  json["kwh"] = r.kwh;
  json["parts"] = nlohmann::ordered_json::array();
  for (const StepPart& part : r.parts) {
    json["parts"].push_back({{"name", part.name}, {"seconds", part.seconds}});
  }
  json["bubble_share"] = r.bubble_share;
  json["expert_max_over_mean"] = r.expert_max_over_mean;
  json["imbalance_seconds"] = r.imbalance_seconds;
  json["straggler_seconds"] = r.straggler_seconds;
  json["bytes_sent_by_rank"] = {{"tensor", r.bytes_tensor},
                                {"expert", r.bytes_expert},
                                {"pipeline", r.bytes_pipeline},
                                {"data", r.bytes_data}};
  json["memory"] = ToJson(r.memory);
  json["stages"] = nlohmann::ordered_json::array();
  for (const DeviceSummary& device : r.devices) {
    json["stages"].push_back({{"busy_seconds", device.busy_seconds},
                              {"idle_seconds", device.idle_seconds},
                              {"peak_activations", device.peak_activations},
                              {"memory", ToJson(device.memory)}});
  }
  json["critical_path"] = r.critical_path;
  json["warnings"] = r.warnings;
  return json;
}

absl::Status CheckResult(const nlohmann::json& json) {
  RETURN_IF_ERROR(Number(json, "seconds").status());
  return PartsOf(json).status();
}

absl::StatusOr<std::string> Compare(const nlohmann::json& a,
                                    const nlohmann::json& b) {
  ASSIGN_OR_RETURN(const double seconds_a, Number(a, "seconds"));
  ASSIGN_OR_RETURN(const double seconds_b, Number(b, "seconds"));
  std::string text =
      absl::StrFormat("%-27s %.4g s -> %.4g s  %s\n", "time", seconds_a,
                      seconds_b, Change(seconds_a, seconds_b));
  // Each kind of result has some of these.
  for (const char* name :
       {"tokens_per_second_per_gpu", "mfu_causal", "bubble_share",
        "utilisation", "exposed_share", "dollars", "kwh"}) {
    const absl::StatusOr<double> from = Number(a, name);
    const absl::StatusOr<double> to = Number(b, name);
    if (!from.ok() || !to.ok()) continue;
    absl::StrAppendFormat(&text, "%-27s %.4g -> %.4g  %s\n", name, *from, *to,
                          Change(*from, *to));
  }
  absl::StrAppend(&text, "\nwhat differs\n");
  bool differs = false;
  for (const char* name : {"model", "traces", "cluster", "layout", "schedule",
                           "framework", "loads", "slow"}) {
    const std::string from = a.value(name, nlohmann::json()).dump();
    const std::string to = b.value(name, nlohmann::json()).dump();
    if (from == to) continue;
    differs = true;
    absl::StrAppend(&text, "  ", name, ": ", from, " -> ", to, "\n");
  }
  if (!differs) absl::StrAppend(&text, "  nothing that was asked for\n");
  ASSIGN_OR_RETURN(auto parts_a, PartsOf(a));
  ASSIGN_OR_RETURN(auto parts_b, PartsOf(b));
  std::vector<std::pair<double, std::string>> changes;
  for (const auto& [name, seconds] : parts_a) {
    changes.push_back({parts_b[name] - seconds, name});
  }
  for (const auto& [name, seconds] : parts_b) {
    if (parts_a.count(name) == 0) changes.push_back({seconds, name});
  }
  std::sort(changes.begin(), changes.end(), [](const auto& x, const auto& y) {
    return std::abs(x.first) > std::abs(y.first);
  });
  absl::StrAppend(
      &text,
      "\nwhy (seconds; of the busiest stage, of traces the mean over ranks)\n");
  for (const auto& [change, name] : changes) {
    if (std::abs(change) < 1e-9) continue;
    absl::StrAppendFormat(&text, "  %-30s %9.4f -> %9.4f  %+9.4f\n", name,
                          parts_a[name], parts_b[name], change);
  }
  return text;
}

}  // namespace strata::sim
