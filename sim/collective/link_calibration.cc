#include "sim/collective/link_calibration.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/base/check.h"
#include "core/base/status_macros.h"
#include "google/protobuf/text_format.h"
#include "sim/cluster/cluster.pb.h"
#include "sim/cluster/load_cluster.h"
#include "sim/collective/fit.h"
#include "sim/collective/nccl_choice.h"
#include "sim/collective/validation.h"

namespace strata::sim {
namespace {

constexpr int kLeastSizes = 3;    // To hold one out, and see a slope.
constexpr int kMostFolds = 12;    // Of sizes: more are held out together.
constexpr double kMostOff = 100;  // Of the preset's time: a wrong unit.
// A fit's rounds, after which its steps begin anew, large again.
constexpr int kRounds = 40;
constexpr int kRestarts = 3;
// Share of the error by which a constant has to make it less.
constexpr double kLeastGain = 0.002;
constexpr absl::string_view kThreads = "nccl.ll.threads_us";
// NCCL's up to 2.28, and since.
constexpr double kLlParts[] = {8, 64};

// The least bytes that a rank sends: with reduction in the switches the buffer,
// else what is not its own.
double LeastBytes(const MeasuredCollective& row) {
  if (row.collective.kind == CollectiveKind::kAllReduce) return row.bytes;
  return row.bytes * (row.num_gpus - 1) / row.num_gpus;
}

absl::Status CheckRow(const MeasuredCollective& row, const NodeConfig& node,
                      absl::string_view like, double preset_us) {
  const auto wrong = [&](absl::string_view what) {
    return absl::InvalidArgumentError(
        absl::StrCat("line ", row.line, ": ", what));
  };
  const double link_us = LeastBytes(row) / (node.scale_up().gb_per_s() * 1e3);
  if (row.measured_us < link_us) {
    return wrong(absl::StrFormat(
        "%s of %.0f bytes over %d GPUs takes %g us; want at least %.4g, its "
        "bytes at the %g GB/s of a GPU's port (latencies are in ms)",
        row.op, row.bytes, row.num_gpus, row.measured_us, link_us,
        node.scale_up().gb_per_s()));
  }
  if (row.measured_us > kMostOff * preset_us ||
      row.measured_us * kMostOff < preset_us) {
    return wrong(absl::StrFormat(
        "%s of %.0f bytes over %d GPUs takes %g us; want within %g times the "
        "%.4g of %s (latencies are in ms)",
        row.op, row.bytes, row.num_gpus, row.measured_us, kMostOff, preset_us,
        like));
  }
  return absl::OkStatus();
}

// What can be said before a prediction.
absl::Status CheckRows(absl::Span<const MeasuredCollective> measured,
                       const NodeConfig& preset, absl::string_view like) {
  if (measured.empty()) {
    return absl::InvalidArgumentError(
        "no rows; want those that nccl_benchmark writes");
  }
  const std::string& base = preset.like();  // Of "a3high": "h100".
  std::set<double> sizes;
  for (const MeasuredCollective& row : measured) {
    const auto wrong = [&](absl::string_view what) {
      return absl::InvalidArgumentError(
          absl::StrCat("line ", row.line, ": ", what));
    };
    if (row.is_moe) {
      return wrong(absl::StrCat(row.op, "; want collectives of NCCL"));
    }
    if (row.node_kind != like && row.node_kind != base) {
      return wrong(absl::StrFormat("measured on %s; want %s", row.node_kind,
                                   base.empty() ? like : base));
    }
    if (row.num_gpus < 2) {
      return wrong("1 GPU exchanges nothing; want rows of 2 or more");
    }
    sizes.insert(row.bytes);
  }
  if (sizes.size() < kLeastSizes) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "rows of %d sizes; want %d or more, as one at a time is held out",
        sizes.size(), kLeastSizes));
  }
  return absl::OkStatus();
}

double Rounded(double value) {
  double rounded = 0;
  CHECK(absl::SimpleAtod(absl::StrFormat("%.4g", value), &rounded));
  return rounded;
}

// Whether a row's part fills a block of LL only partly: where none does, what
// a full one costs more is a part of the launch.
bool HasPartlyFilledBlocks(absl::Span<const MeasuredCollective> rows) {
  return std::any_of(rows.begin(), rows.end(),
                     [](const MeasuredCollective& row) {
                       return row.bytes / row.num_gpus < kFullBlock;
                     });
}

// The preset with what the rows say. Constants that do not matter to them are
// the preset's to the last bit.
absl::StatusOr<NodeConfig> Fit(const NodeConfig& preset,
                               absl::Span<const MeasuredCollective> rows) {
  NodeConfig node = preset;
  node.clear_deep_ep();  // No row has any.
  const NodeConfig start = node;
  std::vector<absl::string_view> kept;
  if (!HasPartlyFilledBlocks(rows)) kept.push_back(kThreads);
  double least = std::numeric_limits<double>::infinity();
  for (const double part : kLlParts) {
    NodeConfig tried = start;
    SetConstant(kLlPart, part, tried);
    ASSIGN_OR_RETURN(tried, FitConstants(tried, rows, kRounds, kept));
    ASSIGN_OR_RETURN(const double error, MeanLogError(tried, rows));
    // Where both do as well, the preset's.
    const bool is_preset = part == ConstantOf(preset, kLlPart);
    if (error < least * (is_preset ? 1 + kLeastGain : 1 - kLeastGain)) {
      least = error;
      node = tried;
    }
  }
  for (int i = 1; i < kRestarts; ++i) {
    ASSIGN_OR_RETURN(node, FitConstants(node, rows, kRounds, kept));
  }
  for (const NodeConstant& constant : ConstantsOf(node)) {
    SetConstant(constant.name, Rounded(constant.value), node);
  }
  for (const NodeConstant& constant : ConstantsOf(node)) {
    ASSIGN_OR_RETURN(const double error, MeanLogError(node, rows));
    NodeConfig unmoved = node;
    SetConstant(constant.name, ConstantOf(preset, constant.name), unmoved);
    ASSIGN_OR_RETURN(const double unmoved_error, MeanLogError(unmoved, rows));
    if (unmoved_error <= (1 + kLeastGain) * error) node = unmoved;
  }
  if (preset.has_deep_ep()) *node.mutable_deep_ep() = preset.deep_ep();
  return node;
}

// Predictions of each row by a fit to the rows of other groups.
absl::StatusOr<std::vector<double>> PredictHeldOut(
    const NodeConfig& preset, absl::Span<const MeasuredCollective> measured,
    absl::FunctionRef<int(const MeasuredCollective&)> group_of) {
  std::set<int> groups;
  for (const MeasuredCollective& row : measured) groups.insert(group_of(row));
  std::vector<double> predicted(measured.size());
  if (groups.size() < 2) return std::vector<double>();
  for (const int group : groups) {
    std::vector<MeasuredCollective> seen;
    for (const MeasuredCollective& row : measured) {
      if (group_of(row) != group) seen.push_back(row);
    }
    ASSIGN_OR_RETURN(const NodeConfig node, Fit(preset, seen));
    ASSIGN_OR_RETURN(const std::vector<double> all,
                     PredictAllUs(node, measured));
    for (size_t i = 0; i < measured.size(); ++i) {
      if (group_of(measured[i]) == group) predicted[i] = all[i];
    }
  }
  return predicted;
}

// Rows whose time changes with the constant, up or down.
absl::StatusOr<int> NumRowsOf(const NodeConstant& constant,
                              const NodeConfig& node,
                              absl::Span<const MeasuredCollective> measured,
                              absl::Span<const double> fitted_us) {
  constexpr double kChange = 1.02;  // Less than most constants' uncertainty.
  std::vector<bool> depends(measured.size(), false);
  for (const double factor : {kChange, 1 / kChange}) {
    NodeConfig changed = node;
    SetConstant(constant.name, constant.value * factor, changed);
    const auto times = PredictAllUs(changed, measured);
    if (!times.ok()) continue;  // A share above 1.
    for (size_t i = 0; i < measured.size(); ++i) {
      if ((*times)[i] != fitted_us[i]) depends[i] = true;
    }
  }
  return std::count(depends.begin(), depends.end(), true);
}

}  // namespace

absl::StatusOr<LinkCalibration> CalibrateLinks(
    absl::string_view like, absl::Span<const MeasuredCollective> measured) {
  LinkCalibration result;
  ASSIGN_OR_RETURN(const NodeConfig preset, NodePreset(like));
  RETURN_IF_ERROR(CheckRows(measured, preset, like));
  ASSIGN_OR_RETURN(result.preset_us, PredictAllUs(preset, measured));
  for (size_t i = 0; i < measured.size(); ++i) {
    RETURN_IF_ERROR(CheckRow(measured[i], preset, like, result.preset_us[i]));
    result.most_gpus = std::max(result.most_gpus, measured[i].num_gpus);
  }
  result.like = std::string(like);
  ASSIGN_OR_RETURN(result.node, Fit(preset, measured));
  ASSIGN_OR_RETURN(result.fitted_us, PredictAllUs(result.node, measured));

  std::set<double> sizes;
  for (const MeasuredCollective& row : measured) sizes.insert(row.bytes);
  ASSIGN_OR_RETURN(
      result.other_sizes_us,
      PredictHeldOut(preset, measured, [&](const MeasuredCollective& row) {
        const int place =
            std::distance(sizes.begin(), sizes.lower_bound(row.bytes));
        return place % kMostFolds;
      }));
  ASSIGN_OR_RETURN(
      result.other_gpus_us,
      PredictHeldOut(preset, measured, [](const MeasuredCollective& row) {
        return row.num_gpus;
      }));

  NodeConfig named = result.node;
  named.clear_deep_ep();
  for (const NodeConstant& constant : ConstantsOf(named)) {
    LinkConstant& link = result.constants.emplace_back();
    link.name = constant.name;
    link.value = constant.value;
    link.preset = ConstantOf(preset, constant.name);
    link.is_fitted = link.value != link.preset;
    ASSIGN_OR_RETURN(link.num_rows, NumRowsOf(constant, result.node, measured,
                                              result.fitted_us));
  }
  return result;
}

std::string LinkClusterText(const LinkCalibration& calibration,
                            absl::string_view name, absl::string_view comment) {
  const absl::StatusOr<ClusterConfig> preset = ClusterPreset(calibration.like);
  CHECK(preset.ok()) << preset.status();
  ClusterConfig config;
  config.set_name(std::string(name));
  NodeGroup* group = config.add_nodes();
  group->set_kind(std::string(name));
  group->set_count(1);
  group->set_gpus(calibration.most_gpus);
  NodeConfig* kind = config.add_kind();
  kind->set_name(std::string(name));
  kind->set_like(calibration.like);
  for (const LinkConstant& constant : calibration.constants) {
    if (constant.is_fitted) SetConstant(constant.name, constant.value, *kind);
  }
  *config.mutable_fabric() = preset->fabric();
  std::string body;
  google::protobuf::TextFormat::PrintToString(config, &body);
  std::string text =
      "# proto-file: sim/cluster/cluster.proto\n"
      "# proto-message: strata.sim.ClusterConfig\n#\n";
  for (const absl::string_view line : absl::StrSplit(comment, '\n')) {
    absl::StrAppend(&text, line.empty() ? "#" : "# ", line, "\n");
  }
  return text + body;
}

}  // namespace strata::sim
