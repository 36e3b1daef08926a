#include "training/expert_meter.h"

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "core/base/status_macros.h"
#include "core/model/config.pb.h"
#include "core/model/moe.h"
#include "core/parallel/communicator.h"
#include "core/parallel/load_stats.h"
#include "core/runtime/program.h"
#include "training/metrics.h"

namespace strata {

ExpertMeter::ExpertMeter(const ModelConfig& config,
                         std::vector<RouterValues> routers)
    : config_(config),
      routers_(std::move(routers)),
      reached_(routers_.size(), 0) {
  for (const RouterValues& router : routers_) {
    offset_name_.push_back(router.OffsetName());
    tokens_name_.push_back(router.TokensName());
    load_.emplace_back(router.num_experts, 0);
  }
}

void ExpertMeter::Reset() {
  for (std::vector<int64_t>& load : load_) {
    std::fill(load.begin(), load.end(), 0);
  }
  std::fill(reached_.begin(), reached_.end(), 0);
  num_tokens_ = 0;
}

void ExpertMeter::Add(const Program& program, int64_t num_tokens) {
  num_tokens_ += num_tokens;
  for (size_t i = 0; i < routers_.size(); ++i) {
    // A stage of a pipeline has the gates of its layers.
    if (!program.graph().outputs().contains(offset_name_[i])) continue;
    const auto offset = program.Output(offset_name_[i]).span<int32_t>();
    for (int64_t e = 0; e < routers_[i].num_experts; ++e) {
      load_[i][e] += offset[e + 1] - offset[e];
    }
    reached_[i] += *program.Output(tokens_name_[i]).as<int32_t>();
  }
}

absl::Status ExpertMeter::SumOverRanks(Communicator& ranks) {
  // Exact up to 2^53.
  std::vector<double> all = {static_cast<double>(num_tokens_)};
  for (const std::vector<int64_t>& load : load_) {
    all.insert(all.end(), load.begin(), load.end());
  }
  all.insert(all.end(), reached_.begin(), reached_.end());
  RETURN_IF_ERROR(
      ranks.AllReduce(PayloadOf(absl::MakeSpan(all)), ReduceOp::kSum));
  auto next = all.begin();
  num_tokens_ = static_cast<int64_t>(*next++);
  for (std::vector<int64_t>& load : load_) {
    for (int64_t& rows : load) rows = static_cast<int64_t>(*next++);
  }
  for (int64_t& reached : reached_) reached = static_cast<int64_t>(*next++);
  return absl::OkStatus();
}

double ExpertMeter::SharedFlops() const {
  const int64_t layers = config_.num_layers() - config_.num_dense_layers();
  return static_cast<double>(layers) * 6 *
         static_cast<double>(config_.d_model()) *
         static_cast<double>(config_.moe().shared_width());
}

double ExpertMeter::ProjectionFlops() const {
  const HierarchicalRouterConfig& gate = config_.moe().hierarchical();
  if (gate.combine() != HierarchicalRouterConfig::CONCAT) return 0;
  const auto d = static_cast<double>(config_.d_model());
  double rows = 0;
  for (const int64_t reached : reached_) rows += static_cast<double>(reached);
  return rows * static_cast<double>(gate.k_max()) * 2 * d * d;
}

ExpertUse ExpertMeter::Use() const {
  ExpertUse use;
  if (routers_.empty() || num_tokens_ == 0) return use;

  const auto tokens = static_cast<double>(num_tokens_);
  double rows_over_all = 0;
  double experts_over_all = 0;
  double num_loaded = 0;
  TierShares tier_gates;
  for (size_t i = 0; i < routers_.size(); ++i) {
    const RouterValues& router = routers_[i];
    const LoadStats stats = ComputeLoadStats(load_[i]);
    rows_over_all += stats.total;
    experts_over_all += static_cast<double>(router.num_experts);
    // Gate and up, then down: three products of d x width, two FLOPs an entry.
    use.flops_per_token += stats.total / tokens * 6 *
                           static_cast<double>(config_.d_model()) *
                           static_cast<double>(router.expert_width);
    if (static_cast<int64_t>(tier_gates.size()) <= router.tier) {
      tier_gates.resize(router.tier + 1, 0);
      use.tier_tokens.resize(router.tier + 1, 0);
    }
    tier_gates[router.tier] += 1;
    use.tier_tokens[router.tier] += static_cast<double>(reached_[i]) / tokens;
    if (stats.total == 0) continue;  // No load has no balance.
    num_loaded += 1;
    use.gini += stats.gini;
    use.utilisation += stats.utilisation;
    use.starved_share += stats.starved_share;
  }
  use.flops_per_token += SharedFlops() + ProjectionFlops() / tokens;
  use.active_share = rows_over_all / (tokens * experts_over_all);
  for (size_t tier = 0; tier < tier_gates.size(); ++tier) {
    use.tier_tokens[tier] /= tier_gates[tier];
  }
  if (num_loaded > 0) {
    use.gini /= num_loaded;
    use.utilisation /= num_loaded;
    use.starved_share /= num_loaded;
  }
  return use;
}

}  // namespace strata
