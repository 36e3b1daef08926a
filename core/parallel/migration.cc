#include "core/parallel/migration.h"

#include <algorithm>
#include <cstdint>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "core/base/status_macros.h"
#include "core/parallel/assignment.h"
#include "core/parallel/placement.h"

namespace strata {
namespace {

// How many slots of `present`'s GPU (column) can keep their expert if it takes
// what a GPU of `placement` (row) holds. [num_gpus, num_gpus]
std::vector<std::vector<int>> Overlap(const PlacementShape& shape,
                                      const Placement& present,
                                      const Placement& placement) {
  std::vector<std::vector<int>> overlap(shape.num_gpus,
                                        std::vector<int>(shape.num_gpus, 0));
  // The GPUs of an expert's slots, ascending, once a slot.
  const auto gpus = [&](const Placement& p) {
    std::vector<std::vector<int>> gpus_of_expert(shape.num_experts);
    for (int slot = 0; slot < shape.num_slots; ++slot) {
      gpus_of_expert[p.expert[slot]].push_back(shape.GpuOfSlot(slot));
    }
    return gpus_of_expert;
  };
  const std::vector<std::vector<int>> before = gpus(present);
  const std::vector<std::vector<int>> after = gpus(placement);
  for (int e = 0; e < shape.num_experts; ++e) {
    // Runs of one GPU: the smaller of two multiplicities is what they share.
    for (auto a = after[e].begin(); a != after[e].end();) {
      const auto a_end = std::upper_bound(a, after[e].end(), *a);
      for (auto b = before[e].begin(); b != before[e].end();) {
        const auto b_end = std::upper_bound(b, before[e].end(), *b);
        overlap[*a][*b] += std::min(a_end - a, b_end - b);
        b = b_end;
      }
      a = a_end;
    }
  }
  return overlap;
}

// Fills new_gpu[old GPU of placement] for the GPUs of node `row`, which take
// those of node `column`; returns how many slots stay.
int AssignGpus(const std::vector<std::vector<int>>& overlap, int row,
               int column, int gpus_per_node, std::vector<int>& new_gpu) {
  std::vector<std::vector<int>> value(gpus_per_node);
  for (int i = 0; i < gpus_per_node; ++i) {
    const auto first =
        overlap[row * gpus_per_node + i].begin() + column * gpus_per_node;
    value[i].assign(first, first + gpus_per_node);
  }
  const std::vector<int> assigned = BestAssignment(value);
  int kept = 0;
  for (int i = 0; i < gpus_per_node; ++i) {
    new_gpu[row * gpus_per_node + i] = column * gpus_per_node + assigned[i];
    kept += value[i][assigned[i]];
  }
  return kept;
}

}  // namespace

Placement RelabelToMatch(const PlacementShape& shape, const Placement& present,
                         const Placement& placement) {
  const std::vector<std::vector<int>> overlap =
      Overlap(shape, present, placement);
  const int num_nodes = shape.IsHierarchical() ? shape.num_nodes : 1;
  const int gpus_per_node = shape.num_gpus / num_nodes;
  std::vector<int> new_gpu(shape.num_gpus);
  std::vector<std::vector<int>> kept(num_nodes, std::vector<int>(num_nodes));
  for (int row = 0; row < num_nodes; ++row) {
    for (int column = 0; column < num_nodes; ++column) {
      kept[row][column] =
          AssignGpus(overlap, row, column, gpus_per_node, new_gpu);
    }
  }
  const std::vector<int> new_node = BestAssignment(kept);
  for (int row = 0; row < num_nodes; ++row) {
    AssignGpus(overlap, row, new_node[row], gpus_per_node, new_gpu);
  }

  const int slots_per_gpu = shape.SlotsPerGpu();
  Placement result = {std::vector<int32_t>(shape.num_slots, -1)};
  std::vector<int32_t> left;  // Experts of a GPU that match no slot.
  for (int gpu = 0; gpu < shape.num_gpus; ++gpu) {
    const auto first = placement.expert.begin() + gpu * slots_per_gpu;
    left.assign(first, first + slots_per_gpu);
    const int begin = new_gpu[gpu] * slots_per_gpu;
    for (int slot = begin; slot < begin + slots_per_gpu; ++slot) {
      const auto match =
          std::find(left.begin(), left.end(), present.expert[slot]);
      if (match == left.end()) continue;
      result.expert[slot] = *match;
      left.erase(match);
    }
    auto next = left.begin();
    for (int slot = begin; slot < begin + slots_per_gpu; ++slot) {
      if (result.expert[slot] < 0) result.expert[slot] = *next++;
    }
  }
  return result;
}

absl::StatusOr<MigrationPlan> PlanMigration(const PlacementShape& shape,
                                            const Placement& from,
                                            const Placement& to,
                                            int64_t bytes_per_expert) {
  RETURN_IF_ERROR(ValidateShape(shape));
  RETURN_IF_ERROR(ValidatePlacement(shape, from));
  RETURN_IF_ERROR(ValidatePlacement(shape, to));
  if (bytes_per_expert < 0) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "bytes_per_expert is %d; want at least 0", bytes_per_expert));
  }

  MigrationPlan plan;
  const std::vector<std::vector<int32_t>> sources = SlotsOfExperts(shape, from);
  std::vector<int> times_read(shape.num_slots, 0);
  for (int slot = 0; slot < shape.num_slots; ++slot) {
    const int32_t expert = to.expert[slot];
    if (expert == from.expert[slot]) continue;
    const auto cost = [&](int32_t source) {
      return std::make_tuple(shape.NodeOfSlot(source) != shape.NodeOfSlot(slot),
                             shape.GpuOfSlot(source) != shape.GpuOfSlot(slot),
                             times_read[source]);
    };
    const int32_t source = *std::min_element(
        sources[expert].begin(), sources[expert].end(),
        [&](int32_t a, int32_t b) { return cost(a) < cost(b); });
    ++times_read[source];
    plan.copies.push_back({slot, from.expert[slot], expert, source});
    plan.bytes_moved += bytes_per_expert;
    if (shape.NodeOfSlot(source) != shape.NodeOfSlot(slot)) {
      plan.bytes_between_nodes += bytes_per_expert;
    }
  }
  return plan;
}

}  // namespace strata
