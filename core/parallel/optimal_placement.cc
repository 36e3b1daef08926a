#include "core/parallel/optimal_placement.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <map>
#include <numeric>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "absl/types/span.h"
#include "core/base/status_macros.h"
#include "core/parallel/placement.h"

namespace strata {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
// Placements that differ by less, as a share, are equally good: a search for
// the last rounding would look at all of them.
constexpr double kRounding = 1e-12;

// The optimum of GPUs that may each hold any of some experts.
class DomainOptimum {
 public:
  DomainOptimum(std::vector<int32_t> experts, absl::Span<const double> load,
                int num_slots, int num_gpus, Duplicates duplicates)
      : experts_(std::move(experts)),
        slots_per_gpu_(num_slots / num_gpus),
        duplicates_(duplicates),
        count_(experts_.size()),
        gpu_(num_gpus),
        gpu_load_(num_gpus, 0.0) {
    std::sort(experts_.begin(), experts_.end(),
              [&](int32_t a, int32_t b) { return load[a] > load[b]; });
    for (const int32_t e : experts_) load_.push_back(load[e]);
    mean_ = std::accumulate(load_.begin(), load_.end(), 0.0) / num_gpus;
    ChooseCounts(0, num_slots);
  }

  double max() const { return best_max_; }
  const std::vector<int32_t>& expert() const { return best_expert_; }

 private:
  struct Item {
    double load;
    int expert;  // Index into experts_.
  };

  // Whether nothing above `max` is worth looking at.
  bool Worse(double max) const {
    return std::max(max, mean_) >= best_max_ * (1 - kRounding);
  }

  // Counts of the experts from `i` on, which have `num_left` slots.
  void ChooseCounts(size_t i, int num_left) {
    const int num_others = experts_.size() - i - 1;
    if (i + 1 == experts_.size()) {
      count_[i] = num_left;
      if (!Worse(load_[i] / num_left)) PackCounts();
      return;
    }
    for (int n = 1; n <= num_left - num_others; ++n) {
      count_[i] = n;
      if (!Worse(load_[i] / n)) ChooseCounts(i + 1, num_left - n);
    }
  }

  void PackCounts() {
    item_.clear();
    for (size_t i = 0; i < experts_.size(); ++i) {
      for (int n = 0; n < count_[i]; ++n) {
        item_.push_back({load_[i] / count_[i], static_cast<int>(i)});
      }
    }
    std::stable_sort(
        item_.begin(), item_.end(),
        [](const Item& a, const Item& b) { return a.load > b.load; });
    PackItem(0, -1, 0);
  }

  // Places the items from `i` on; `last_gpu` took the one before.
  void PackItem(size_t i, int last_gpu, double max) {
    if (i == item_.size()) {
      best_max_ = max;
      best_expert_.clear();
      for (const std::vector<int>& held : gpu_) {
        for (const int e : held) best_expert_.push_back(experts_[e]);
      }
      return;
    }
    const Item& item = item_[i];
    // Replicas of one expert go to ascending GPUs.
    const bool same = i > 0 && item_[i - 1].expert == item.expert;
    const int first =
        !same ? 0 : last_gpu + (duplicates_ == Duplicates::kForbidden ? 1 : 0);
    for (int g = first; g < static_cast<int>(gpu_.size()); ++g) {
      if (gpu_[g].size() == static_cast<size_t>(slots_per_gpu_)) continue;
      const bool empty = gpu_[g].empty();
      const double before = gpu_load_[g];
      const double max_after = std::max(max, before + item.load);
      if (!Worse(max_after)) {
        gpu_[g].push_back(item.expert);
        gpu_load_[g] += item.load;
        PackItem(i + 1, g, max_after);
        gpu_load_[g] = before;
        gpu_[g].pop_back();
      }
      if (empty) break;  // The other empty ones are the same.
    }
  }

  std::vector<int32_t> experts_;  // Heaviest first.
  std::vector<double> load_;      // Of experts_.
  const int slots_per_gpu_;
  const Duplicates duplicates_;
  double mean_ = 0;

  std::vector<int> count_;             // Of experts_.
  std::vector<Item> item_;             // [num_slots]
  std::vector<std::vector<int>> gpu_;  // What each holds so far.
  std::vector<double> gpu_load_;
  double best_max_ = kInfinity;
  std::vector<int32_t> best_expert_;  // [num_slots]
};

// The best way to deal groups to nodes, each node solved by itself.
class GroupOptimum {
 public:
  GroupOptimum(const PlacementShape& shape, absl::Span<const double> load,
               Duplicates duplicates)
      : shape_(shape),
        load_(load),
        duplicates_(duplicates),
        num_nodes_(shape.IsHierarchical() ? shape.num_nodes : 1),
        num_groups_(num_nodes_ > 1 ? shape.num_groups : 1),
        node_(num_nodes_, 0),
        num_held_(num_nodes_, 0) {
    Deal(0);
  }

  const Placement& placement() const { return best_; }

 private:
  // A set of groups is a mask.
  const DomainOptimum& Solve(uint32_t groups) {
    const auto found = solved_.find(groups);
    if (found != solved_.end()) return found->second;
    const int group_size = shape_.num_experts / num_groups_;
    std::vector<int32_t> experts;
    for (int e = 0; e < shape_.num_experts; ++e) {
      if (groups >> (e / group_size) & 1) experts.push_back(e);
    }
    return solved_
        .try_emplace(groups, std::move(experts), load_,
                     shape_.num_slots / num_nodes_,
                     shape_.num_gpus / num_nodes_, duplicates_)
        .first->second;
  }

  void Deal(int group) {
    if (group == num_groups_) {
      double max = 0;
      for (const uint32_t groups : node_) {
        max = std::max(max, Solve(groups).max());
      }
      if (max >= best_max_) return;
      best_max_ = max;
      best_.expert.clear();
      for (const uint32_t groups : node_) {
        const std::vector<int32_t>& expert = Solve(groups).expert();
        best_.expert.insert(best_.expert.end(), expert.begin(), expert.end());
      }
      return;
    }
    for (int n = 0; n < num_nodes_; ++n) {
      if (num_held_[n] == num_groups_ / num_nodes_) continue;
      const bool empty = num_held_[n] == 0;
      node_[n] |= uint32_t{1} << group;
      ++num_held_[n];
      Deal(group + 1);
      --num_held_[n];
      node_[n] &= ~(uint32_t{1} << group);
      if (empty) break;
    }
  }

  const PlacementShape& shape_;
  const absl::Span<const double> load_;
  const Duplicates duplicates_;
  const int num_nodes_;
  const int num_groups_;
  std::vector<uint32_t> node_;  // Groups of each node so far.
  std::vector<int> num_held_;   // Their number.
  std::map<uint32_t, DomainOptimum> solved_;
  double best_max_ = kInfinity;
  Placement best_;
};

}  // namespace

absl::StatusOr<Placement> FindOptimalPlacement(const PlacementShape& shape,
                                               absl::Span<const double> load,
                                               Duplicates duplicates) {
  RETURN_IF_ERROR(ValidateShape(shape));
  RETURN_IF_ERROR(ValidateLoad(shape, load));
  const bool by_nodes = shape.IsHierarchical() && shape.num_nodes > 1;
  const int num_slots = by_nodes ? shape.SlotsPerNode() : shape.num_slots;
  if (num_slots > kMaxSlotsForOptimum) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%d slots are too many for an exact search; want at "
                        "most %d",
                        num_slots, kMaxSlotsForOptimum));
  }
  if (by_nodes && shape.num_groups > kMaxGroupsForOptimum) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%d groups are too many for an exact search; want at "
                        "most %d",
                        shape.num_groups, kMaxGroupsForOptimum));
  }
  if (duplicates == Duplicates::kForbidden && MustDuplicate(shape)) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "a GPU has %d slots, more than there are experts for them, so it must "
        "hold one twice",
        shape.SlotsPerGpu()));
  }
  return GroupOptimum(shape, load, duplicates).placement();
}

}  // namespace strata
