#include "core/trace/routing_summary.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/parallel/load_stats.h"
#include "core/trace/routing_layout.h"
#include "core/trace/routing_reader.h"
#include "core/trace/routing_record.h"
#include "core/trace/routing_trace.pb.h"
#include "nlohmann/json.hpp"

namespace strata {
namespace {

// Where there would be more windows, they are joined in pairs.
constexpr size_t kMaxWindows = 32;

// `numerator` of nothing is nothing.
double Ratio(double numerator, double denominator) {
  return denominator == 0 ? 0 : numerator / denominator;
}

double Sum(absl::Span<const int64_t> load) {
  return static_cast<double>(
      std::accumulate(load.begin(), load.end(), int64_t{0}));
}

// Half of the sum of differences between the shares of two loads, neither 0.
double TotalVariation(absl::Span<const int64_t> a,
                      absl::Span<const int64_t> b) {
  const double a_sum = Sum(a);
  const double b_sum = Sum(b);
  double differences = 0;
  for (size_t e = 0; e < a.size(); ++e) {
    differences += std::abs(static_cast<double>(a[e]) / a_sum -
                            static_cast<double>(b[e]) / b_sum);
  }
  return differences / 2;
}

LoadDrift DriftOf(const std::vector<absl::Span<const int64_t>>& windows) {
  LoadDrift drift;
  if (windows.size() < 2) return drift;
  for (size_t w = 1; w < windows.size(); ++w) {
    const double distance = TotalVariation(windows[w - 1], windows[w]);
    drift.mean += distance / static_cast<double>(windows.size() - 1);
    drift.max = std::max(drift.max, distance);
  }
  drift.first_to_last = TotalVariation(windows.front(), windows.back());
  return drift;
}

GateSummary MeanOf(const std::vector<GateSummary>& gates) {
  GateSummary mean;
  LoadStatsMean whole;
  LoadStatsMean per_record;
  for (const GateSummary& gate : gates) {
    whole.Add(gate.whole);
    per_record.Add(gate.per_record);
    mean.num_experts += gate.num_experts;
    mean.tokens += gate.tokens;
    mean.exits += gate.exits;
    mean.active_share += gate.active_share * gate.num_experts;
    if (gate.whole.total == 0) continue;
    mean.drift.mean += gate.drift.mean;
    mean.drift.max += gate.drift.max;
    mean.drift.first_to_last += gate.drift.first_to_last;
  }
  mean.whole = whole.Mean();
  mean.per_record = per_record.Mean();
  // An expert counts alike whatever gate it stands behind.
  mean.active_share = Ratio(mean.active_share, mean.num_experts);
  mean.exit_rate = Ratio(mean.exits, mean.tokens);
  mean.drift.mean = Ratio(mean.drift.mean, whole.num_layers());
  mean.drift.max = Ratio(mean.drift.max, whole.num_layers());
  mean.drift.first_to_last =
      Ratio(mean.drift.first_to_last, whole.num_layers());
  return mean;
}

nlohmann::json ToJson(const LoadStats& stats) {
  return {{"rows", stats.total},
          {"gini", stats.gini},
          {"max_over_mean", stats.max_over_mean},
          {"utilisation", stats.utilisation},
          {"starved_share", stats.starved_share}};
}

nlohmann::json ToJson(const GateSummary& gate) {
  return {{"experts", gate.num_experts},
          {"tokens", gate.tokens},
          {"exits", gate.exits},
          {"active_share", gate.active_share},
          {"exit_rate", gate.exit_rate},
          {"whole", ToJson(gate.whole)},
          {"per_record", ToJson(gate.per_record)},
          {"drift",
           {{"mean", gate.drift.mean},
            {"max", gate.drift.max},
            {"first_to_last", gate.drift.first_to_last}}}};
}

std::string SourceName(RoutingTraceHeader::Source source) {
  switch (source) {
    case RoutingTraceHeader::TRAIN:
      return "train";
    case RoutingTraceHeader::EVALUATE:
      return "evaluate";
    default:
      return "unknown";
  }
}

}  // namespace

RoutingSummarizer::RoutingSummarizer(const RoutingLayout& layout)
    : layout_(layout), gates_(layout.gates.size()) {
  int64_t num_experts = 0;
  for (size_t g = 0; g < gates_.size(); ++g) {
    gates_[g].first_expert = num_experts;
    num_experts += layout.gates[g].num_experts;
  }
  load_.resize(num_experts);
}

absl::Span<const int64_t> RoutingSummarizer::Load(const Window& window,
                                                  size_t gate) const {
  return absl::MakeConstSpan(window.load)
      .subspan(gates_[gate].first_expert, layout_.gates[gate].num_experts);
}

void RoutingSummarizer::Add(const RoutingRecord& record) {
  if (num_records_ == 0) first_step_ = record.step();
  last_step_ = record.step();
  ++num_records_;
  tokens_ += GateTokens(layout_, record, 0);

  std::fill(load_.begin(), load_.end(), 0);
  for (size_t g = 0; g < gates_.size(); ++g) {
    Gate& gate = gates_[g];
    const auto load = absl::MakeSpan(load_).subspan(
        gate.first_expert, layout_.gates[g].num_experts);
    for (int64_t r = 0; r < layout_.num_ranks; ++r) {
      const absl::Span<const uint32_t> rows = RankRows(layout_, record, g, r);
      for (size_t e = 0; e < rows.size(); ++e) load[e] += rows[e];
    }
    gate.tokens += GateTokens(layout_, record, g);
    gate.exits += GateExits(layout_, record, g);
    gate.per_record.Add(ComputeLoadStats(absl::Span<const int64_t>(load)));
  }

  if (windows_.empty() || windows_.back().num_records == records_per_window_) {
    if (windows_.size() == kMaxWindows) {
      for (size_t w = 0; w < kMaxWindows / 2; ++w) {
        Window joined = std::move(windows_[2 * w]);
        const Window& second = windows_[2 * w + 1];
        joined.num_records += second.num_records;
        for (size_t e = 0; e < load_.size(); ++e) {
          joined.load[e] += second.load[e];
        }
        windows_[w] = std::move(joined);
      }
      windows_.resize(kMaxWindows / 2);
      records_per_window_ *= 2;
    }
    windows_.push_back({record.step(), 0, std::vector<int64_t>(load_.size())});
  }
  Window& window = windows_.back();
  ++window.num_records;
  for (size_t e = 0; e < load_.size(); ++e) window.load[e] += load_[e];
}

std::vector<RoutingSummarizer::Window> RoutingSummarizer::WholeWindows() const {
  std::vector<Window> windows = windows_;
  if (windows.size() < 2 || windows.back().num_records == records_per_window_) {
    return windows;
  }
  const Window last = std::move(windows.back());
  windows.pop_back();
  windows.back().num_records += last.num_records;
  for (size_t e = 0; e < load_.size(); ++e) {
    windows.back().load[e] += last.load[e];
  }
  return windows;
}

GateSummary RoutingSummarizer::Summarize(size_t g,
                                         const std::vector<Window>& windows,
                                         int64_t batch_tokens) const {
  const GateLayout& layout = layout_.gates[g];
  GateSummary summary;
  summary.layer = layout.layer;
  summary.tier = layout.tier;
  summary.num_experts = layout.num_experts;
  summary.tokens = gates_[g].tokens;
  summary.exits = gates_[g].exits;
  summary.exit_rate = Ratio(summary.exits, summary.tokens);

  std::vector<int64_t> whole(layout.num_experts, 0);
  std::vector<absl::Span<const int64_t>> with_load;
  for (const Window& window : windows) {
    const absl::Span<const int64_t> load = Load(window, g);
    for (size_t e = 0; e < whole.size(); ++e) whole[e] += load[e];
    if (Sum(load) > 0) with_load.push_back(load);
  }
  summary.whole = ComputeLoadStats(whole);
  summary.per_record = gates_[g].per_record.Mean();
  summary.active_share =
      Ratio(summary.whole.total,
            static_cast<double>(batch_tokens) * layout.num_experts);
  summary.drift = DriftOf(with_load);
  return summary;
}

RoutingSummary RoutingSummarizer::Finish() const {
  RoutingSummary summary;
  summary.num_records = num_records_;
  summary.first_step = first_step_;
  summary.last_step = last_step_;
  summary.tokens = tokens_;
  const std::vector<Window> windows = WholeWindows();
  std::vector<double> num_gates;  // [tiers]
  for (size_t g = 0; g < gates_.size(); ++g) {
    const GateSummary gate = Summarize(g, windows, tokens_);
    if (static_cast<int64_t>(num_gates.size()) <= gate.tier) {
      num_gates.resize(gate.tier + 1, 0);
      summary.tier_tokens.resize(gate.tier + 1, 0);
    }
    num_gates[gate.tier] += 1;
    summary.tier_tokens[gate.tier] += Ratio(gate.tokens, tokens_);
    summary.gates.push_back(gate);
  }
  for (size_t tier = 0; tier < num_gates.size(); ++tier) {
    summary.tier_tokens[tier] /= num_gates[tier];
  }
  summary.mean = MeanOf(summary.gates);
  for (const Window& window : windows) {
    LoadStatsMean load;
    for (size_t g = 0; g < gates_.size(); ++g) {
      load.Add(ComputeLoadStats(Load(window, g)));
    }
    summary.windows.push_back(
        {window.first_step, window.num_records, load.Mean()});
  }
  return summary;
}

RoutingSummary Summarize(RoutingReader& reader) {
  RoutingSummarizer summarizer(reader.layout());
  RoutingRecord record;
  while (true) {
    const absl::StatusOr<bool> more = reader.Next(record);
    if (more.ok() && *more) {
      summarizer.Add(record);
      continue;
    }
    RoutingSummary summary = summarizer.Finish();
    summary.damage = more.status();
    return summary;
  }
}

nlohmann::json ToJson(const RoutingTraceHeader& header) {
  nlohmann::json gates = nlohmann::json::array();
  for (const RoutingGate& gate : header.gates()) {
    gates.push_back({{"layer", gate.layer()},
                     {"tier", gate.tier()},
                     {"experts", gate.num_experts()},
                     {"k_max", gate.k_max()},
                     {"considered", gate.has_considered()}});
  }
  nlohmann::json manifest = {{"version", header.version()},
                             {"commit", header.commit()},
                             {"seed", header.seed()},
                             {"data_hash", header.data_hash()},
                             {"date", header.date()}};
  nlohmann::json json = {{"format_version", header.format_version()},
                         {"recorded_by", SourceName(header.recorded_by())},
                         {"model", header.model_name()},
                         {"model_hash", header.model_hash()},
                         {"gates", gates},
                         {"ranks", header.num_ranks()},
                         {"tokens", header.has_tokens()},
                         {"domains", nlohmann::json::array()},
                         {"manifest", manifest}};
  for (const std::string& domain : header.domains()) {
    json["domains"].push_back(domain);
  }
  if (!header.weights_hash().empty()) {
    json["weights_hash"] = header.weights_hash();
  }
  return json;
}

nlohmann::json ToJson(const RoutingSummary& summary) {
  nlohmann::json gates = nlohmann::json::array();
  for (const GateSummary& gate : summary.gates) {
    nlohmann::json json = ToJson(gate);
    json["layer"] = gate.layer;
    json["tier"] = gate.tier;
    gates.push_back(std::move(json));
  }
  nlohmann::json windows = nlohmann::json::array();
  for (const WindowSummary& window : summary.windows) {
    windows.push_back({{"first_step", window.first_step},
                       {"records", window.num_records},
                       {"load", ToJson(window.load)}});
  }
  nlohmann::json json = {
      {"records", summary.num_records},     {"first_step", summary.first_step},
      {"last_step", summary.last_step},     {"tokens", summary.tokens},
      {"mean", ToJson(summary.mean)},       {"gates", gates},
      {"tier_tokens", summary.tier_tokens}, {"windows", windows}};
  json["damage"] = nullptr;
  if (!summary.damage.ok()) {
    json["damage"] = std::string(summary.damage.message());
  }
  return json;
}

}  // namespace strata
