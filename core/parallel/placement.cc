#include "core/parallel/placement.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <queue>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "absl/types/span.h"

namespace strata {
namespace {

// The least that the heaviest replica of these experts can weigh.
double HeaviestReplica(absl::Span<const double> load, int num_slots) {
  const std::vector<int32_t> count =
      MinMaxReplicaCounts(load, num_slots, num_slots);
  double heaviest = 0;
  for (size_t e = 0; e < load.size(); ++e) {
    heaviest = std::max(heaviest, load[e] / count[e]);
  }
  return heaviest;
}

}  // namespace

absl::Status ValidateShape(const PlacementShape& shape) {
  const std::pair<const char*, int> sizes[] = {
      {"num_experts", shape.num_experts}, {"num_slots", shape.num_slots},
      {"num_gpus", shape.num_gpus},       {"num_nodes", shape.num_nodes},
      {"num_groups", shape.num_groups},
  };
  for (const auto& [name, size] : sizes) {
    if (size < 1) {
      return absl::InvalidArgumentError(
          absl::StrFormat("%s is %d; want at least 1", name, size));
    }
  }
  if (shape.num_slots < shape.num_experts) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%d slots are too few for %d experts, each of which needs one",
        shape.num_slots, shape.num_experts));
  }
  if (shape.num_slots % shape.num_gpus != 0) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%d slots do not divide over %d GPUs", shape.num_slots,
                        shape.num_gpus));
  }
  if (shape.num_gpus % shape.num_nodes != 0) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%d GPUs do not divide over %d nodes", shape.num_gpus,
                        shape.num_nodes));
  }
  if (shape.num_experts % shape.num_groups != 0) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%d experts do not divide into %d groups",
                        shape.num_experts, shape.num_groups));
  }
  return absl::OkStatus();
}

absl::Status ValidateLoad(const PlacementShape& shape,
                          absl::Span<const double> load) {
  if (load.size() != static_cast<size_t>(shape.num_experts)) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%d loads for %d experts", load.size(), shape.num_experts));
  }
  double sum = 0;
  for (size_t e = 0; e < load.size(); ++e) {
    if (!(load[e] >= 0) || !std::isfinite(load[e])) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "the load of expert %d is %g; want a finite number from 0 on", e,
          load[e]));
    }
    sum += load[e];
  }
  if (!std::isfinite(sum)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("the sum of %d loads is %g", load.size(), sum));
  }
  return absl::OkStatus();
}

absl::Status ValidatePlacement(const PlacementShape& shape,
                               const Placement& placement) {
  if (placement.expert.size() != static_cast<size_t>(shape.num_slots)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("a placement of %d slots; want %d",
                        placement.expert.size(), shape.num_slots));
  }
  std::vector<bool> placed(shape.num_experts, false);
  for (int slot = 0; slot < shape.num_slots; ++slot) {
    const int32_t expert = placement.expert[slot];
    if (expert < 0 || expert >= shape.num_experts) {
      return absl::InvalidArgumentError(
          absl::StrFormat("slot %d holds expert %d; want 0 to %d", slot, expert,
                          shape.num_experts - 1));
    }
    placed[expert] = true;
  }
  const auto missing = std::find(placed.begin(), placed.end(), false);
  if (missing != placed.end()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("expert %d has no slot", missing - placed.begin()));
  }
  return absl::OkStatus();
}

std::vector<int32_t> ReplicaCounts(const PlacementShape& shape,
                                   const Placement& placement) {
  std::vector<int32_t> count(shape.num_experts, 0);
  for (const int32_t expert : placement.expert) ++count[expert];
  return count;
}

std::vector<std::vector<int32_t>> SlotsOfExperts(const PlacementShape& shape,
                                                 const Placement& placement) {
  std::vector<std::vector<int32_t>> slots(shape.num_experts);
  for (int slot = 0; slot < shape.num_slots; ++slot) {
    slots[placement.expert[slot]].push_back(slot);
  }
  return slots;
}

std::vector<double> GpuLoads(const PlacementShape& shape,
                             const Placement& placement,
                             absl::Span<const double> load) {
  // The slots in the order of their experts, by counting.
  const std::vector<int32_t> count = ReplicaCounts(shape, placement);
  std::vector<int32_t> next(shape.num_experts, 0);
  std::partial_sum(count.begin(), count.end() - 1, next.begin() + 1);
  std::vector<int32_t> order(shape.num_slots);
  for (int slot = 0; slot < shape.num_slots; ++slot) {
    order[next[placement.expert[slot]]++] = slot;
  }
  std::vector<double> gpu_load(shape.num_gpus, 0.0);
  for (const int32_t slot : order) {
    const int32_t expert = placement.expert[slot];
    gpu_load[shape.GpuOfSlot(slot)] += load[expert] / count[expert];
  }
  return gpu_load;
}

double MaxOverMean(const PlacementShape& shape, const Placement& placement,
                   absl::Span<const double> load) {
  // Summed over experts, so that names of GPUs change no bit of it.
  const double sum = std::accumulate(load.begin(), load.end(), 0.0);
  if (sum == 0) return 1;
  const std::vector<double> gpu_load = GpuLoads(shape, placement, load);
  return *std::max_element(gpu_load.begin(), gpu_load.end()) /
         (sum / shape.num_gpus);
}

int NumGpusWithDuplicates(const PlacementShape& shape,
                          const Placement& placement) {
  int num_gpus = 0;
  const int slots_per_gpu = shape.SlotsPerGpu();
  std::vector<int32_t> held(slots_per_gpu);
  for (int gpu = 0; gpu < shape.num_gpus; ++gpu) {
    std::copy_n(placement.expert.begin() + gpu * slots_per_gpu, slots_per_gpu,
                held.begin());
    std::sort(held.begin(), held.end());
    if (std::adjacent_find(held.begin(), held.end()) != held.end()) ++num_gpus;
  }
  return num_gpus;
}

bool MustDuplicate(const PlacementShape& shape) {
  const int num_candidates = shape.IsHierarchical()
                                 ? shape.num_experts / shape.num_nodes
                                 : shape.num_experts;
  return shape.SlotsPerGpu() > num_candidates;
}

bool KeepsGroups(const PlacementShape& shape, const Placement& placement) {
  if (!shape.IsHierarchical()) return true;
  std::vector<int> node_of_group(shape.num_groups, -1);
  std::vector<int> num_groups(shape.num_nodes, 0);
  for (int slot = 0; slot < shape.num_slots; ++slot) {
    const int node = shape.NodeOfSlot(slot);
    const int group = placement.expert[slot] / shape.ExpertsPerGroup();
    if (node_of_group[group] == node) continue;
    if (node_of_group[group] != -1) return false;
    node_of_group[group] = node;
    ++num_groups[node];
  }
  return std::all_of(num_groups.begin(), num_groups.end(), [&](int n) {
    return n == shape.num_groups / shape.num_nodes;
  });
}

std::vector<int32_t> MinMaxReplicaCounts(absl::Span<const double> load,
                                         int num_slots, int max_replicas) {
  const int num_experts = load.size();
  std::vector<int32_t> count(num_experts, 1);
  // The heaviest replica on top, of equals the lower expert.
  using Heaviest = std::pair<double, int>;  // Replica load, -expert.
  std::priority_queue<Heaviest> heaviest;
  for (int e = 0; e < num_experts; ++e) heaviest.push({load[e], -e});
  for (int slot = num_experts; slot < num_slots; ++slot) {
    // Those at their limit drop out, until all are and the limit must give.
    while (!heaviest.empty() && count[-heaviest.top().second] >= max_replicas) {
      heaviest.pop();
    }
    if (heaviest.empty()) {
      max_replicas = std::numeric_limits<int>::max();
      for (int e = 0; e < num_experts; ++e) {
        heaviest.push({load[e] / count[e], -e});
      }
    }
    const int expert = -heaviest.top().second;
    heaviest.pop();
    ++count[expert];
    heaviest.push({load[expert] / count[expert], -expert});
  }
  return count;
}

double MaxOverMeanLowerBound(const PlacementShape& shape,
                             absl::Span<const double> load) {
  const double sum = std::accumulate(load.begin(), load.end(), 0.0);
  if (sum == 0) return 1;
  const double mean = sum / shape.num_gpus;
  double bound = std::max(mean, HeaviestReplica(load, shape.num_slots));
  if (shape.IsHierarchical() && shape.num_nodes > 1) {
    const int group_size = shape.ExpertsPerGroup();
    const int num_others = shape.num_groups / shape.num_nodes - 1;
    // The other groups of the node take a slot for each expert at least.
    const int num_slots = shape.SlotsPerNode() - num_others * group_size;
    std::vector<double> group_load(shape.num_groups);
    for (int g = 0; g < shape.num_groups; ++g) {
      const absl::Span<const double> group =
          load.subspan(g * group_size, group_size);
      group_load[g] = std::accumulate(group.begin(), group.end(), 0.0);
      bound = std::max(bound, HeaviestReplica(group, num_slots));
    }
    // For the heaviest group the lightest others are the first.
    std::sort(group_load.begin(), group_load.end());
    const double node_load = std::accumulate(
        group_load.begin(), group_load.begin() + num_others, group_load.back());
    bound = std::max(bound, node_load / shape.GpusPerNode());
  }
  return bound / mean;
}

}  // namespace strata
