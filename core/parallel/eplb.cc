#include "core/parallel/eplb.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/base/check.h"
#include "core/base/status_macros.h"
#include "core/parallel/placement.h"

namespace strata {
namespace {

struct Replica {
  int32_t expert;
  int32_t rank;  // Among the expert's replicas, in the order they were made.
};

// The replicas of a node's experts: each expert once, in the given order, then
// the further ones as they are made. [num_slots]
std::vector<Replica> Replicate(absl::Span<const int32_t> experts,
                               absl::Span<const double> load, int num_slots) {
  std::vector<Replica> replicas;
  replicas.reserve(num_slots);
  std::vector<double> heaviest;  // [experts.size()] load of one replica
  std::vector<int32_t> count(experts.size(), 1);
  for (const int32_t expert : experts) {
    replicas.push_back({expert, 0});
    heaviest.push_back(load[expert]);
  }
  while (replicas.size() < static_cast<size_t>(num_slots)) {
    const int i = std::max_element(heaviest.begin(), heaviest.end()) -
                  heaviest.begin();  // The first of equals.
    replicas.push_back({experts[i], count[i]++});
    heaviest[i] = load[experts[i]] / count[i];
  }
  return replicas;
}

// The experts of each node in the order in which they are considered.
std::vector<std::vector<int32_t>> ExpertsOfNodes(
    const PlacementShape& shape, absl::Span<const double> load) {
  const int num_nodes = shape.IsHierarchical() ? shape.num_nodes : 1;
  const int num_groups = shape.IsHierarchical() ? shape.num_groups : 1;
  const int group_size = shape.num_experts / num_groups;
  std::vector<double> group_load(num_groups);
  for (int g = 0; g < num_groups; ++g) {
    const auto first = load.begin() + g * group_size;
    group_load[g] = std::accumulate(first, first + group_size, 0.0);
  }
  std::vector<std::vector<int32_t>> experts;
  for (const std::vector<int32_t>& groups :
       PackBalanced(group_load, num_nodes)) {
    experts.emplace_back();
    for (const int32_t g : groups) {
      for (int i = 0; i < group_size; ++i) {
        experts.back().push_back(g * group_size + i);
      }
    }
  }
  return experts;
}

}  // namespace

std::vector<std::vector<int32_t>> PackBalanced(absl::Span<const double> weight,
                                               int num_packs) {
  const int num_items = weight.size();
  CHECK(num_packs > 0 && num_items % num_packs == 0)
      << num_items << " items, " << num_packs << " packs";
  const size_t capacity = num_items / num_packs;
  std::vector<std::vector<int32_t>> pack(num_packs);
  std::vector<int32_t> order(num_items);
  std::iota(order.begin(), order.end(), 0);
  if (capacity == 1) {  // Nothing to balance: items keep their places.
    for (const int32_t item : order) pack[item].push_back(item);
    return pack;
  }
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return weight[a] > weight[b]; });
  std::vector<double> pack_weight(num_packs, 0.0);
  for (const int32_t item : order) {
    int lightest = -1;
    for (int p = 0; p < num_packs; ++p) {
      if (pack[p].size() == capacity) continue;
      if (lightest < 0 || pack_weight[p] < pack_weight[lightest]) lightest = p;
    }
    pack[lightest].push_back(item);
    pack_weight[lightest] += weight[item];
  }
  return pack;
}

absl::StatusOr<EplbPlacement> PlaceByEplb(const PlacementShape& shape,
                                          absl::Span<const double> load) {
  RETURN_IF_ERROR(ValidateShape(shape));
  RETURN_IF_ERROR(ValidateLoad(shape, load));

  EplbPlacement result;
  result.slots.resize(shape.num_experts);
  const std::vector<std::vector<int32_t>> nodes = ExpertsOfNodes(shape, load);
  const int num_nodes = nodes.size();
  for (const std::vector<int32_t>& experts : nodes) {
    const std::vector<Replica> replicas =
        Replicate(experts, load, shape.num_slots / num_nodes);
    std::vector<int32_t> count(shape.num_experts, 0);
    for (const Replica& r : replicas) ++count[r.expert];
    std::vector<double> replica_load;
    for (const Replica& r : replicas) {
      replica_load.push_back(load[r.expert] / count[r.expert]);
    }
    for (const std::vector<int32_t>& gpu :
         PackBalanced(replica_load, shape.num_gpus / num_nodes)) {
      for (const int32_t i : gpu) {
        const auto [expert, rank] = replicas[i];
        std::vector<int32_t>& slots = result.slots[expert];
        slots.resize(count[expert]);
        slots[rank] = result.placement.expert.size();
        result.placement.expert.push_back(expert);
      }
    }
  }
  return result;
}

}  // namespace strata
