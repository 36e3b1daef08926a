#include "training/balance/live_balancer.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "core/base/check.h"
#include "core/base/status_macros.h"
#include "core/model/moe.h"
#include "core/monitor/alarm_board.h"
#include "core/monitor/rank_balance.h"
#include "core/monitor/watch.h"
#include "core/parallel/communicator.h"
#include "core/parallel/mesh.h"
#include "core/parallel/placement.h"
#include "core/passes/partition/partition_experts.h"
#include "core/runtime/state_store.h"
#include "core/tensor/tensor.h"
#include "training/balance/balance_rule.h"
#include "training/balance/gate_use.h"
#include "training/balance/move_leg.h"
#include "training/balance/move_rows.h"
#include "training/expert_meter.h"
#include "training/metrics.h"
#include "training/rank_state.h"

namespace strata {
namespace {

// An alarm that stands calls the balancer again after so many steps.
constexpr int64_t kStepsToNext = 20;
// What is moved before the rate is known.
constexpr int64_t kFirstBytes = int64_t{16} << 20;
// Of a message where no budget holds.
constexpr int64_t kLegBytes = int64_t{256} << 20;

std::vector<AlarmRule> RulesOf(const BalanceRule& rule) {
  if (rule.when != BalanceRule::When::kAlarm) return {};
  return {UtilisationSpreadRule()};
}

// The states of `shard`: its parameter and moments.
std::vector<std::string> StatesOf(absl::Span<const Shard> shards,
                                  absl::string_view placement,
                                  const StateStore& state) {
  std::vector<std::string> names;
  for (const std::string& name : state.names()) {
    const Shard* const shard = FindShard(shards, name);
    if (shard == nullptr || shard->placement != placement) continue;
    if (!absl::StartsWith(name, "grad.")) names.push_back(name);
  }
  // All ranks of the group have the same.
  std::sort(names.begin(), names.end());
  return names;
}

double SpreadOf(const PlacementShape& shape, const Placement& placement,
                const std::vector<double>& load) {
  return UtilisationSpread(GpuLoads(shape, placement, load));
}

}  // namespace

RankBalanceOptions SlotsOfRanks(int ranks, int spare) {
  RankBalanceOptions options;
  options.num_ranks = ranks;
  options.spare_slots = spare;
  // Steps are short windows: some dozen of them count.
  options.memory = 0.15;
  // docs/placement.md: two per cent of balance save most of the moves.
  options.max_above_eplb = 0.02;
  return options;
}

absl::StatusOr<std::unique_ptr<LiveBalancer>> LiveBalancer::Create(
    const BalanceRule& rule, const ExpertMeter& meter,
    absl::Span<const Shard> shards, const Mesh& mesh, StateStore& state) {
  auto balancer = std::unique_ptr<LiveBalancer>(new LiveBalancer(
      rule, std::vector<Shard>(shards.begin(), shards.end()), mesh, state));
  RETURN_IF_ERROR(balancer->AddGates(meter));
  balancer->BeginInOrder();
  return balancer;
}

LiveBalancer::LiveBalancer(const BalanceRule& rule, std::vector<Shard> shards,
                           const Mesh& mesh, StateStore& state)
    : rule_(rule),
      shards_(std::move(shards)),
      mesh_(mesh),
      state_(state),
      watch_(RulesOf(rule)) {}

absl::Status LiveBalancer::AddGates(const ExpertMeter& meter) {
  std::vector<double> bytes;
  for (const RouterValues& router : meter.routers()) {
    Gate gate;
    gate.layer = router.layer;
    gate.tier = router.tier;
    gate.table = PlacementName(absl::StripSuffix(router.gate, ".gate"));
    gate.states = StatesOf(shards_, gate.table, state_);
    gate.shape = SlotShape(static_cast<int>(router.num_experts),
                           SlotsOfRanks(mesh_.shape().ep, rule_.spare));
    gate.home = InOrder(gate.shape);
    bytes.push_back(static_cast<double>(BytesOfSlot(gate.states, state_)));
    gates_.push_back(std::move(gate));
  }
  // A rank may have the gate in another stage, or moments elsewhere.
  RETURN_IF_ERROR(mesh_.world().AllReduce(PayloadOf(absl::MakeSpan(bytes)),
                                          ReduceOp::kMax));
  for (size_t g = 0; g < gates_.size(); ++g) {
    gates_[g].bytes = std::max<int64_t>(1, static_cast<int64_t>(bytes[g]));
  }
  return absl::OkStatus();
}

void LiveBalancer::SetTable(const std::string& table,
                            const Placement& placement) {
  if (!state_.Has(table)) return;  // Of another stage.
  const auto slots = state_.Get(table).span<int32_t>();
  CHECK_EQ(slots.size(), placement.expert.size());
  std::copy(placement.expert.begin(), placement.expert.end(), slots.begin());
}

void LiveBalancer::BeginInOrder() {
  std::vector<int> experts;
  placements_.clear();
  for (const Gate& gate : gates_) {
    experts.push_back(gate.shape.num_experts);
    placements_.push_back(gate.home);
  }
  away_ = placements_;
  watch_.SetGates(std::move(experts),
                  SlotsOfRanks(mesh_.shape().ep, rule_.spare));
  // Gates that no meter knows, of prediction modules, have a table too.
  for (const Shard& shard : shards_) {
    SetTable(shard.placement,
             InOrder(SlotShape(static_cast<int>(shard.whole),
                               SlotsOfRanks(mesh_.shape().ep, rule_.spare))));
    const int64_t own = shard.end - shard.begin;
    for (const std::string& name : StatesOf({shard}, shard.placement, state_)) {
      const TensorView& view = state_.Get(name);
      char* const rows = static_cast<char*>(view.data);
      const int64_t n = view.num_bytes() / view.dim(0);
      for (int64_t i = 0; i < shard.spare; ++i) {
        std::copy_n(rows + i % own * n, n, rows + (own + i) * n);
      }
    }
  }
}

bool LiveBalancer::Due(int64_t step) {
  switch (rule_.when) {
    case BalanceRule::When::kNever:
      return false;
    case BalanceRule::When::kEvery:
      return step % rule_.steps == 0;
    case BalanceRule::When::kAlarm:
      // The watch itself has called it when the alarm was raised.
      return !watch_.Active().empty() && step >= rebalanced_at_ + kStepsToNext;
  }
  return false;
}

absl::Status LiveBalancer::AfterStep(int64_t step, const ExpertMeter& meter,
                                     std::vector<ExpertMove>& moves) {
  if (gates_.empty()) return absl::OkStatus();
  // By the number of the step, not a clock: all ranks see the same.
  watch_.ObserveGates(GatesOf(meter), absl::FromUnixSeconds(step));
  if (watch_.num_rebalances() == num_rebalances_ && Due(step)) {
    watch_.Rebalance();
  }
  watch_.TakeEvents();  // The run's monitor tells.
  if (watch_.num_rebalances() > num_rebalances_) rebalanced_at_ = step;
  num_rebalances_ = watch_.num_rebalances();
  return MoveSome(moves);
}

int64_t LiveBalancer::SlotsWithin(size_t g, int64_t bytes) const {
  return bytes / gates_[g].bytes;
}

absl::Status LiveBalancer::MoveSome(std::vector<ExpertMove>& moves) {
  const RankBalance* const balance = watch_.balance();
  if (balance == nullptr) return absl::OkStatus();
  int64_t budget = rule_.max_bytes;
  if (rule_.spare == 0) {
    const double in_time = seconds_per_byte_ > 0
                               ? rule_.max_seconds / seconds_per_byte_
                               : static_cast<double>(kFirstBytes);
    if (in_time < static_cast<double>(budget)) {
      budget = static_cast<int64_t>(in_time);
    }
  }
  int64_t moved = 0;
  const absl::Time start = absl::Now();
  for (size_t g = 0; g < gates_.size(); ++g) {
    const Placement& target = balance->placements()[g];
    if (placements_[g] == target) continue;
    const int64_t slots = SlotsWithin(g, budget - moved);
    // The first step of all is taken whatever it costs.
    if (moved > 0 && slots < 2) break;
    const absl::Time begin = absl::Now();
    const MoveLeg leg = NextLeg(gates_[g].shape, placements_[g], target, slots);
    const Placement after = After(placements_[g], leg);
    ExpertMove move;
    move.layer = gates_[g].layer;
    move.tier = gates_[g].tier;
    move.experts = leg.sent;
    move.bytes = leg.sent * gates_[g].bytes;
    const std::vector<double>& load = balance->loads()[g];
    move.spread_before = SpreadOf(gates_[g].shape, placements_[g], load);
    move.spread_after = SpreadOf(gates_[g].shape, after, load);
    RETURN_IF_ERROR(Move(g, leg.origin, after));
    for (size_t s = 0; s < target.expert.size(); ++s) {
      move.slots_left += after.expert[s] != target.expert[s];
    }
    move.seconds = absl::ToDoubleSeconds(absl::Now() - begin);
    moved += leg.changed * gates_[g].bytes;
    moves.push_back(move);
  }
  if (moved == 0) return absl::OkStatus();
  double seconds = absl::ToDoubleSeconds(absl::Now() - start);
  RETURN_IF_ERROR(mesh_.world().AllReduce(
      PayloadOf(absl::MakeSpan(&seconds, 1)), ReduceOp::kMax));
  seconds_per_byte_ = seconds / static_cast<double>(moved);
  return absl::OkStatus();
}

absl::Status LiveBalancer::Move(size_t g, absl::Span<const int32_t> origin,
                                const Placement& after) {
  const Gate& gate = gates_[g];
  // Other stages only note where the experts are.
  if (!gate.states.empty()) {
    RETURN_IF_ERROR(MoveRows(origin, gate.states, mesh_.ep(), state_));
  }
  placements_[g] = after;
  // Which tells a backend, too, that parameters are others than before.
  SetTable(gate.table, after);
  return absl::OkStatus();
}

absl::Status LiveBalancer::MoveAll(absl::Span<const Placement> targets) {
  for (size_t g = 0; g < gates_.size(); ++g) {
    while (!(placements_[g] == targets[g])) {
      const MoveLeg leg = NextLeg(gates_[g].shape, placements_[g], targets[g],
                                  SlotsWithin(g, kLegBytes));
      RETURN_IF_ERROR(Move(g, leg.origin, After(placements_[g], leg)));
    }
  }
  return absl::OkStatus();
}

absl::Status LiveBalancer::GoHome() {
  away_ = placements_;
  std::vector<Placement> home;
  for (const Gate& gate : gates_) home.push_back(gate.home);
  return MoveAll(home);
}

absl::Status LiveBalancer::GoBack() { return MoveAll(away_); }

}  // namespace strata
