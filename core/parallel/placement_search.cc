#include "core/parallel/placement_search.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "core/base/check.h"
#include "core/parallel/placement.h"

namespace strata {
namespace {

constexpr double kNoMove = std::numeric_limits<double>::infinity();
// Counts by the min-max rule split the heaviest expert into replicas of some
// two thirds of a GPU's share, which pack badly. Packed too are counts that
// leave its replicas nearly as heavy as a GPU's share and spend the slots on
// lighter experts: heavy replicas of these shares of the mean.
constexpr double kHeavyReplicas[] = {0.97, 0.9, 0.8, 0.7};
// A packing this near its target needs but a few swaps.
constexpr double kPackedWell = 0.01;
// Random moves of a kick: enough to leave a local optimum, few enough that most
// of it stays.
constexpr int kMinMovesOfKick = 3;
constexpr int kMaxMovesOfKick = 8;
// What a kick and its undoing cost, in moves looked at.
constexpr int kKickCost = 200;
// Sums of loads that are equal on paper differ by less, as a share.
constexpr double kRounding = 1e-12;

}  // namespace

PlacementSearch::PlacementSearch(absl::Span<const double> load, int num_slots,
                                 int num_gpus)
    : load_(load),
      num_experts_(load.size()),
      num_slots_(num_slots),
      num_gpus_(num_gpus),
      slots_per_gpu_(num_slots / num_gpus),
      must_duplicate_(slots_per_gpu_ > num_experts_),
      random_(/*seed=*/0, /*stream=*/0) {
  CHECK(num_slots >= num_experts_ && num_slots % num_gpus == 0)
      << num_slots << " slots, " << num_experts_ << " experts, " << num_gpus
      << " GPUs";
}

void PlacementSearch::Start(absl::Span<const int32_t> expert) {
  CHECK_EQ(expert.size(), static_cast<size_t>(num_slots_));
  expert_.assign(expert.begin(), expert.end());
  count_.assign(num_experts_, 0);
  held_.assign(num_experts_ * num_gpus_, 0);
  for (int slot = 0; slot < num_slots_; ++slot) {
    ++count_[expert_[slot]];
    ++Held(expert_[slot], GpuOf(slot));
  }
  replica_load_.resize(num_experts_);
  next_load_.resize(num_experts_);
  for (int e = 0; e < num_experts_; ++e) SetReplicaLoad(e);
  sorted_slot_.resize(num_slots_);
  std::iota(sorted_slot_.begin(), sorted_slot_.end(), 0);
  is_sorted_.assign(num_gpus_, false);
  gpu_load_.assign(num_gpus_, 0.0);
  for (int slot = 0; slot < num_slots_; ++slot) {
    gpu_load_[GpuOf(slot)] += replica_load_[expert_[slot]];
  }
}

void PlacementSearch::SetReplicaLoad(int expert) {
  replica_load_[expert] = ReplicaLoad(expert, count_[expert]);
  next_load_[expert] = ReplicaLoad(expert, count_[expert] + 1);
}

std::vector<int32_t> PlacementSearch::CountsUpTo(double limit) const {
  std::vector<int32_t> count(num_experts_, 0);
  std::vector<int32_t> light;
  std::vector<double> light_load;
  int num_left = num_slots_;
  for (int e = 0; e < num_experts_; ++e) {
    if (load_[e] > limit) {
      count[e] = std::min<double>(num_gpus_, std::ceil(load_[e] / limit));
      num_left -= count[e];
    } else {
      light.push_back(e);
      light_load.push_back(load_[e]);
    }
  }
  if (light.empty() || num_left < static_cast<int>(light.size())) return {};
  const std::vector<int32_t> light_count =
      MinMaxReplicaCounts(light_load, num_left, num_gpus_);
  for (size_t i = 0; i < light.size(); ++i) count[light[i]] = light_count[i];
  return count;
}

void PlacementSearch::StartByPacking(double target) {
  // More replicas than GPUs would put two on one.
  Pack(MinMaxReplicaCounts(load_, num_slots_, num_gpus_));
  std::vector<int32_t> best = expert_;
  double best_max = MaxLoad();
  for (const double share : kHeavyReplicas) {
    if (best_max <= target * (1 + kPackedWell)) break;
    const std::vector<int32_t> count = CountsUpTo(share * MeanLoad());
    if (count.empty()) break;  // Lighter ones take more slots yet.
    Pack(count);
    if (MaxLoad() < best_max) {
      best = expert_;
      best_max = MaxLoad();
    }
  }
  Start(best);
}

void PlacementSearch::Pack(absl::Span<const int32_t> count) {
  std::vector<int32_t> order(num_experts_);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return ReplicaLoad(a, count[a]) > ReplicaLoad(b, count[b]);
  });

  std::vector<int32_t> expert(num_slots_);
  std::vector<int> used(num_gpus_, 0);
  std::vector<double> gpu_load(num_gpus_, 0.0);
  std::vector<int> last(num_gpus_, -1);  // The last expert that a GPU took.
  for (const int32_t e : order) {
    for (int replica = 0; replica < count[e]; ++replica) {
      // The least loaded with room; one that has the expert only if all do.
      int best = -1;
      for (int gpu = 0; gpu < num_gpus_; ++gpu) {
        if (used[gpu] == slots_per_gpu_) continue;
        if (best < 0 || (last[gpu] == e) < (last[best] == e) ||
            ((last[gpu] == e) == (last[best] == e) &&
             gpu_load[gpu] < gpu_load[best])) {
          best = gpu;
        }
      }
      expert[best * slots_per_gpu_ + used[best]++] = e;
      gpu_load[best] += ReplicaLoad(e, count[e]);
      last[best] = e;
    }
  }
  Start(expert);
  RemoveDuplicates();  // Where the last GPUs with room had the expert.
}

int PlacementSearch::HeaviestGpu() const {
  return std::max_element(gpu_load_.begin(), gpu_load_.end()) -
         gpu_load_.begin();
}

double PlacementSearch::MaxAfterSwap(int slot, int other_slot) const {
  const double moved =
      replica_load_[expert_[slot]] - replica_load_[expert_[other_slot]];
  return std::max(gpu_load_[GpuOf(slot)] - moved,
                  gpu_load_[GpuOf(other_slot)] + moved);
}

double PlacementSearch::MaxAfterOverwrite(int slot, int expert) const {
  const int gpu = GpuOf(slot);
  const int old = expert_[slot];
  const double old_before = replica_load_[old];
  const double old_after = ReplicaLoad(old, count_[old] - 1);
  const double before = replica_load_[expert];
  const double after = next_load_[expert];
  double max = gpu_load_[gpu] + after - old_before +
               (Held(old, gpu) - 1) * (old_after - old_before) +
               Held(expert, gpu) * (after - before);
  for (int k = 0; k < num_gpus_; ++k) {
    const int num_old = Held(old, k);
    if (k == gpu || num_old == 0) continue;  // Without `old` loads only fall.
    max = std::max(max, gpu_load_[k] + num_old * (old_after - old_before) +
                            Held(expert, k) * (after - before));
  }
  return max;
}

double PlacementSearch::MeanLoad() const {
  return std::accumulate(gpu_load_.begin(), gpu_load_.end(), 0.0) / num_gpus_;
}

absl::Span<const int32_t> PlacementSearch::SortedSlots(int gpu) {
  int32_t* const first = sorted_slot_.data() + gpu * slots_per_gpu_;
  if (!is_sorted_[gpu]) {
    // By insertion: a move leaves all but a few in order.
    for (int i = 1; i < slots_per_gpu_; ++i) {
      const int32_t slot = first[i];
      const double load = replica_load_[expert_[slot]];
      int j = i;
      for (; j > 0 && replica_load_[expert_[first[j - 1]]] > load; --j) {
        first[j] = first[j - 1];
      }
      first[j] = slot;
    }
    is_sorted_[gpu] = true;
  }
  return absl::MakeConstSpan(first, slots_per_gpu_);
}

void PlacementSearch::NearestSwap(int gpu, int other, double wanted,
                                  double& nearest, Move& move) {
  const absl::Span<const int32_t> slots = SortedSlots(gpu);
  const absl::Span<const int32_t> partners = SortedSlots(other);
  int from = 0;  // The first partner at or above what fits the slot exactly.
  for (const int32_t slot : slots) {
    const int a = expert_[slot];
    const double fit = replica_load_[a] - wanted;
    while (from < slots_per_gpu_ &&
           replica_load_[expert_[partners[from]]] < fit) {
      ++from;
    }
    if (!MayHold(a, other)) continue;
    // Outwards from the fit; the first that may move is the nearest.
    for (const int step : {1, -1}) {
      for (int i = step > 0 ? from : from - 1; i >= 0 && i < slots_per_gpu_;
           i += step) {
        const int b = expert_[partners[i]];
        const double distance = std::abs(replica_load_[b] - fit);
        if (distance >= nearest) break;
        if (!MayHold(b, gpu)) continue;
        nearest = distance;
        move = {MaxAfterSwap(slot, partners[i]), slot, partners[i], -1};
        break;
      }
    }
  }
}

PlacementSearch::Move PlacementSearch::BestSwap(int gpu, int64_t& budget) {
  Move best = {kNoMove, -1, -1, -1};
  double bound = gpu_load_[gpu];
  const auto try_partner = [&](int other) {
    const double even = (gpu_load_[gpu] + gpu_load_[other]) / 2;
    // The pair's maximum is the even share and what the swap misses it by.
    double nearest = bound - even;
    if (nearest <= 0) return;
    budget -= slots_per_gpu_;
    NearestSwap(gpu, other, gpu_load_[gpu] - even, nearest, best);
    bound = std::min(bound, best.max_load);
  };
  // The least loaded first: its result rules out most of the others.
  const int lightest =
      std::min_element(gpu_load_.begin(), gpu_load_.end()) - gpu_load_.begin();
  try_partner(lightest);
  for (int other = 0; other < num_gpus_; ++other) {
    if (other != gpu && other != lightest) try_partner(other);
  }
  return best;
}

PlacementSearch::Move PlacementSearch::MendingSwap(int gpu, double window,
                                                   int64_t& budget) {
  const double mean = MeanLoad();
  const double excess = gpu_load_[gpu] - mean;
  Move best = {kNoMove, -1, -1, -1};
  double least_left = excess;
  for (int other = 0; other < num_gpus_; ++other) {
    if (other == gpu) continue;
    const double lack = mean - gpu_load_[other];
    // What mends the partner, as far as it mends `gpu` too; off by at most half
    // of the window, which leaves `gpu` inside.
    const double wanted =
        std::clamp(lack, excess - window / 2, excess + window / 2);
    if (std::abs(wanted - lack) - window / 2 >= least_left) continue;
    budget -= slots_per_gpu_;
    Move move = best;
    double nearest = window / 2;
    NearestSwap(gpu, other, wanted, nearest, move);
    if (nearest == window / 2) continue;
    const double left =
        std::abs(gpu_load_[other] - mean + replica_load_[expert_[move.slot]] -
                 replica_load_[expert_[move.other_slot]]);
    if (left < least_left) {
      best = move;
      least_left = left;
    }
  }
  return best;
}

PlacementSearch::Move PlacementSearch::BestOverwrite(int gpu,
                                                     int64_t& budget) const {
  Move best = {kNoMove, -1, -1, -1};
  double bound = gpu_load_[gpu];
  const auto try_overwrite = [&](int slot, int expert) {
    const int old = expert_[slot];
    const int at = GpuOf(slot);
    if (expert == old || !MayHold(expert, at)) return;
    --budget;
    // At least the slot's own GPU must end below the bound.
    if (!must_duplicate_ &&
        gpu_load_[at] - replica_load_[old] + next_load_[expert] >= bound) {
      return;
    }
    budget -= num_gpus_;
    double max = MaxAfterOverwrite(slot, expert);
    if (at != gpu) {
      // Which the move touches, for `gpu` has the expert.
      max = std::max(max, gpu_load_[gpu] -
                              Held(expert, gpu) *
                                  (replica_load_[expert] - next_load_[expert]));
    }
    if (max < bound) {
      best = {max, slot, -1, expert};
      bound = max;
    }
  };
  const int first = gpu * slots_per_gpu_;
  for (int slot = 0; slot < num_slots_; ++slot) {
    if (count_[expert_[slot]] < 2) continue;
    if (GpuOf(slot) == gpu) {
      for (int e = 0; e < num_experts_; ++e) try_overwrite(slot, e);
    } else {
      for (int s = first; s < first + slots_per_gpu_; ++s) {
        try_overwrite(slot, expert_[s]);
      }
    }
  }
  return best;
}

void PlacementSearch::Swap(int slot, int other_slot) {
  const int gpu = GpuOf(slot);
  const int other = GpuOf(other_slot);
  const int a = expert_[slot];
  const int b = expert_[other_slot];
  const double moved = replica_load_[a] - replica_load_[b];
  gpu_load_[gpu] -= moved;
  gpu_load_[other] += moved;
  --Held(a, gpu);
  ++Held(b, gpu);
  --Held(b, other);
  ++Held(a, other);
  std::swap(expert_[slot], expert_[other_slot]);
  journal_.push_back({0, slot, other_slot, -1});
  is_sorted_[gpu] = false;
  is_sorted_[other] = false;
}

void PlacementSearch::Overwrite(int slot, int expert) {
  const int old = expert_[slot];
  --count_[old];
  ++count_[expert];
  CHECK(count_[old] > 0) << "expert " << old << " lost its last slot, " << slot;
  expert_[slot] = expert;
  journal_.push_back({0, slot, -1, old});
  gpu_load_[GpuOf(slot)] -= replica_load_[old];
  --Held(old, GpuOf(slot));
  for (const int e : {old, expert}) {
    const double before = replica_load_[e];
    SetReplicaLoad(e);
    for (int k = 0; k < num_gpus_; ++k) {
      if (Held(e, k) == 0) continue;
      gpu_load_[k] += Held(e, k) * (replica_load_[e] - before);
      is_sorted_[k] = false;
    }
  }
  gpu_load_[GpuOf(slot)] += replica_load_[expert];
  ++Held(expert, GpuOf(slot));
  is_sorted_[GpuOf(slot)] = false;
}

void PlacementSearch::Apply(const Move& move) {
  if (move.other_slot >= 0) {
    Swap(move.slot, move.other_slot);
  } else {
    Overwrite(move.slot, move.expert);
  }
}

void PlacementSearch::RemoveDuplicates() {
  if (must_duplicate_) return;
  for (int slot = 0; slot < num_slots_; ++slot) {
    const int gpu = GpuOf(slot);
    const int a = expert_[slot];
    if (Held(a, gpu) == 1) continue;
    Move best = {kNoMove, -1, -1, -1};
    for (int t = 0; t < num_slots_; ++t) {
      const int b = expert_[t];
      if (Held(a, GpuOf(t)) > 0 || Held(b, gpu) > 0) continue;
      const double max = MaxAfterSwap(slot, t);
      if (max < best.max_load) best = {max, slot, t, -1};
    }
    for (int e = 0; e < num_experts_; ++e) {
      if (Held(e, gpu) > 0) continue;
      const double max = MaxAfterOverwrite(slot, e);
      if (max < best.max_load) best = {max, slot, -1, e};
    }
    // A GPU that holds an expert twice lacks another, to overwrite it with.
    CHECK(best.slot >= 0) << "no move for expert " << a << " on GPU " << gpu;
    Apply(best);
  }
}

PlacementSearch::Move PlacementSearch::NextMove(int gpu, double target,
                                                bool spare_moves,
                                                int64_t& budget) {
  if (spare_moves) {
    const Move mending = MendingSwap(gpu, target - MeanLoad(), budget);
    if (mending.max_load < kNoMove) return mending;
  }
  const Move swap = BestSwap(gpu, budget);
  if (!spare_moves && swap.max_load < kNoMove) return swap;
  const Move overwrite = BestOverwrite(gpu, budget);
  // A swap fills two slots anew, an overwrite one: the better gain a slot.
  const double max = gpu_load_[gpu];
  return 2 * (max - overwrite.max_load) > max - swap.max_load ? overwrite
                                                              : swap;
}

bool PlacementSearch::Descend(double target, bool spare_moves,
                              int64_t& budget) {
  while (budget > 0) {
    const int gpu = HeaviestGpu();
    if (gpu_load_[gpu] <= target) return true;
    const Move move = NextMove(gpu, target, spare_moves, budget);
    if (move.max_load == kNoMove) return false;
    Apply(move);
  }
  return MaxLoad() <= target;
}

void PlacementSearch::Kick() {
  const int num_moves =
      kMinMovesOfKick +
      random_.UniformInt(kMaxMovesOfKick - kMinMovesOfKick + 1);
  for (int i = 0; i < num_moves; ++i) {
    // The heaviest GPU takes part at first, or the maximum would stay.
    const int slot = i == 0 ? HeaviestGpu() * slots_per_gpu_ +
                                  random_.UniformInt(slots_per_gpu_)
                            : random_.UniformInt(num_slots_);
    const int other = random_.UniformInt(num_slots_);
    const int gpu = GpuOf(slot);
    if (GpuOf(other) == gpu) continue;
    if (!MayHold(expert_[other], gpu)) continue;
    if (count_[expert_[slot]] > 1 && random_.UniformInt(2) == 0) {
      Overwrite(slot, expert_[other]);
    } else if (MayHold(expert_[slot], GpuOf(other))) {
      Swap(slot, other);
    }
  }
}

void PlacementSearch::UndoJournal() {
  // By index, as undoing writes to the journal too.
  for (int i = static_cast<int>(journal_.size()) - 1; i >= 0; --i) {
    const Move undo = journal_[i];
    Apply(undo);
  }
  journal_.clear();
}

void PlacementSearch::Improve(double target, bool spare_moves,
                              int64_t& budget) {
  if (num_gpus_ == 1) return;
  journal_.clear();
  bool reached = Descend(target, spare_moves, budget);
  double best_max = MaxLoad();
  journal_.clear();
  while (!reached && budget > 0) {
    budget -= kKickCost;
    Kick();
    reached = Descend(target, spare_moves, budget);
    // Drifting over equals finds more, but changes slots for nothing.
    const double max = MaxLoad();
    if (max < best_max * (1 - kRounding) || (max <= best_max && !spare_moves)) {
      best_max = max;
      journal_.clear();
    } else {
      UndoJournal();
    }
  }
  // Anew, which leaves no rounding of the moves behind.
  const std::vector<int32_t> best = expert_;
  Start(best);
}

void PlacementSearch::AlignWith(absl::Span<const int32_t> present) {
  for (int slot = 0; slot < num_slots_; ++slot) {
    if (expert_[slot] == present[slot]) continue;
    const int first = GpuOf(slot) * slots_per_gpu_;
    for (int s = first; s < first + slots_per_gpu_; ++s) {
      if (expert_[s] == present[slot] && present[s] != present[slot]) {
        std::swap(expert_[s], expert_[slot]);
        is_sorted_[GpuOf(slot)] = false;
        break;
      }
    }
  }
}

void PlacementSearch::ReturnTo(absl::Span<const int32_t> present,
                               double target) {
  CHECK_EQ(present.size(), static_cast<size_t>(num_slots_));
  bool returned = true;
  while (returned) {
    returned = false;
    AlignWith(present);
    for (int slot = 0; slot < num_slots_; ++slot) {
      const int gpu = GpuOf(slot);
      const int now = expert_[slot];
      const int before = present[slot];
      if (now == before || before < 0 || !MayHold(before, gpu)) continue;
      // Swapping back with the slot whose expert went the other way mends two.
      int partner = -1;
      for (int t = 0; t < num_slots_; ++t) {
        if (expert_[t] != before || present[t] == before || GpuOf(t) == gpu ||
            !MayHold(now, GpuOf(t)) || MaxAfterSwap(slot, t) > target) {
          continue;
        }
        if (partner < 0 || present[t] == now) partner = t;
        if (present[t] == now) break;
      }
      const bool mends_two = partner >= 0 && present[partner] == now;
      if (!mends_two && count_[now] > 1 &&
          MaxAfterOverwrite(slot, before) <= target) {
        Overwrite(slot, before);
      } else if (partner >= 0) {
        Swap(slot, partner);
      } else {
        continue;
      }
      returned = true;
    }
  }
}

}  // namespace strata
