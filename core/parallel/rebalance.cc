#include "core/parallel/rebalance.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/types/span.h"
#include "core/base/status_macros.h"
#include "core/parallel/eplb.h"
#include "core/parallel/migration.h"
#include "core/parallel/placement.h"
#include "core/parallel/placement_search.h"

namespace strata {
namespace {

// Loads that are equal on paper differ by some roundings of sums of as many
// terms as a GPU has slots.
constexpr double kRounding = 1e-12;
// A search ends within this of its lower bound: beyond it the loads themselves,
// counts of a window of tokens, mean nothing.
constexpr double kCloseEnough = 1e-3;
// Moves that the searches of a layer may look at, about 5 ns each, and
// what is kept of them for the second search and for the one near the present.
constexpr int64_t kBudget = 130'000;
constexpr int64_t kBudgetAfterFirst = 90'000;
constexpr int64_t kBudgetAfterSecond = 50'000;
// Beyond that, before duplicates are put up with; and to improve on them.
constexpr int64_t kLongBudget = 200'000;
constexpr int64_t kLastBudget = 20'000;
// Below this share of slots changed, names are not asked for a better one.
constexpr double kManyChanged = 0.25;
constexpr int64_t kGroupBudget = 10'000;

// The GPUs and experts of a node, or of all nodes where they do not matter.
struct Domain {
  std::vector<int32_t> experts;  // Ascending.
  std::vector<double> load;      // [experts.size()]
  std::vector<int32_t> local;    // [num_slots of the domain], if it has any
};

double Sum(absl::Span<const double> load) {
  return std::accumulate(load.begin(), load.end(), 0.0);
}

class LayerBalancer {
 public:
  LayerBalancer(const PlacementShape& shape, absl::Span<const double> load)
      : shape_(shape),
        load_(load),
        num_domains_(shape.IsHierarchical() ? shape.num_nodes : 1),
        slots_per_domain_(shape.num_slots / num_domains_),
        gpus_per_domain_(shape.num_gpus / num_domains_) {}

  double Max(const Placement& placement) const {
    const std::vector<double> gpu_load = GpuLoads(shape_, placement, load_);
    return *std::max_element(gpu_load.begin(), gpu_load.end());
  }
  int Duplicates(const Placement& placement) const {
    return MustDuplicate(shape_) ? 0 : NumGpusWithDuplicates(shape_, placement);
  }

  Placement Best(const Placement& eplb, double limit, int64_t& budget) const;
  std::optional<Placement> Near(const Placement& present, double target,
                                int64_t& budget) const;
  Placement ReturnTo(const Placement& present, const Placement& placement,
                     double target) const;

 private:
  enum class Duplicate { kKeep, kRemove };

  std::vector<Domain> PackGroups() const;
  std::vector<Domain> DomainsOf(const Placement& placement) const;
  double Target(absl::Span<const Domain> domains) const;
  // Improves the domains' placements, or packings if they have none, until they
  // reach the target or leave `reserve` of the budget.
  Placement Search(absl::Span<const Domain> domains, double target,
                   Duplicate duplicate, bool spare_moves, int64_t reserve,
                   int64_t& budget) const;

  const PlacementShape& shape_;
  const absl::Span<const double> load_;
  const int num_domains_;
  const int slots_per_domain_;
  const int gpus_per_domain_;
};

// Groups onto nodes: themselves a placement without replicas.
std::vector<Domain> LayerBalancer::PackGroups() const {
  std::vector<Domain> domains(num_domains_);
  if (num_domains_ == 1) {
    domains[0].experts.resize(shape_.num_experts);
    std::iota(domains[0].experts.begin(), domains[0].experts.end(), 0);
    domains[0].load.assign(load_.begin(), load_.end());
    return domains;
  }
  const int group_size = shape_.ExpertsPerGroup();
  std::vector<double> group_load(shape_.num_groups);
  for (int e = 0; e < shape_.num_experts; ++e) {
    group_load[e / group_size] += load_[e];
  }
  PlacementSearch search(group_load, shape_.num_groups, num_domains_);
  const double target = Sum(load_) / num_domains_ * (1 + kCloseEnough);
  search.StartByPacking(target);
  int64_t budget = kGroupBudget;
  search.Improve(target, /*spare_moves=*/false, budget);
  const int groups_per_domain = shape_.num_groups / num_domains_;
  for (int d = 0; d < num_domains_; ++d) {
    const auto first = search.expert().begin() + d * groups_per_domain;
    std::vector<int32_t> groups(first, first + groups_per_domain);
    std::sort(groups.begin(), groups.end());
    for (const int32_t group : groups) {
      for (int i = 0; i < group_size; ++i) {
        domains[d].experts.push_back(group * group_size + i);
        domains[d].load.push_back(load_[domains[d].experts.back()]);
      }
    }
  }
  return domains;
}

std::vector<Domain> LayerBalancer::DomainsOf(const Placement& placement) const {
  std::vector<Domain> domains(num_domains_);
  std::vector<int32_t> local(shape_.num_experts);
  for (int d = 0; d < num_domains_; ++d) {
    Domain& domain = domains[d];
    const auto first = placement.expert.begin() + d * slots_per_domain_;
    domain.experts.assign(first, first + slots_per_domain_);
    std::sort(domain.experts.begin(), domain.experts.end());
    domain.experts.erase(
        std::unique(domain.experts.begin(), domain.experts.end()),
        domain.experts.end());
    for (size_t i = 0; i < domain.experts.size(); ++i) {
      local[domain.experts[i]] = i;
      domain.load.push_back(load_[domain.experts[i]]);
    }
    for (int slot = 0; slot < slots_per_domain_; ++slot) {
      domain.local.push_back(local[first[slot]]);
    }
  }
  return domains;
}

// The highest of the domains' lower bounds: a domain below it has time.
double LayerBalancer::Target(absl::Span<const Domain> domains) const {
  double target = 0;
  for (const Domain& domain : domains) {
    PlacementShape shape;
    shape.num_experts = domain.load.size();
    shape.num_slots = slots_per_domain_;
    shape.num_gpus = gpus_per_domain_;
    target = std::max(target, MaxOverMeanLowerBound(shape, domain.load) *
                                  Sum(domain.load) / gpus_per_domain_);
  }
  return target;
}

Placement LayerBalancer::Search(absl::Span<const Domain> domains, double target,
                                Duplicate duplicate, bool spare_moves,
                                int64_t reserve, int64_t& budget) const {
  // The lightest first: what it leaves of an even share of the budget is for
  // the others, and the heaviest decides the maximum.
  std::vector<double> domain_load(num_domains_);
  for (int d = 0; d < num_domains_; ++d) {
    domain_load[d] = Sum(domains[d].load);
  }
  std::vector<int> order(num_domains_);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
    return domain_load[a] < domain_load[b];
  });

  Placement placement = {std::vector<int32_t>(shape_.num_slots)};
  int num_left = num_domains_;
  for (const int d : order) {
    const Domain& domain = domains[d];
    PlacementSearch search(domain.load, slots_per_domain_, gpus_per_domain_);
    if (domain.local.empty()) {
      search.StartByPacking(target);
    } else {
      search.Start(domain.local);
      if (duplicate == Duplicate::kRemove) search.RemoveDuplicates();
    }
    const int64_t share = std::max<int64_t>(budget - reserve, 0) / num_left--;
    int64_t left = share;
    search.Improve(target, spare_moves, left);
    budget -= share - left;
    for (int slot = 0; slot < slots_per_domain_; ++slot) {
      placement.expert[d * slots_per_domain_ + slot] =
          domain.experts[search.expert()[slot]];
    }
  }
  return placement;
}

// The most balanced placement found, at most `limit`, which EPLB reaches.
Placement LayerBalancer::Best(const Placement& eplb, double limit,
                              int64_t& budget) const {
  const std::vector<Domain> packed = PackGroups();
  const double bound = std::min(limit, Target(packed) * (1 + kCloseEnough));
  Placement best = Search(packed, bound, Duplicate::kRemove,
                          /*spare_moves=*/false, kBudgetAfterFirst, budget);
  const double best_max = Max(best);
  if (best_max <= bound) return best;

  const std::vector<Domain> from_eplb = DomainsOf(eplb);
  const double eplb_bound =
      std::min(limit, Target(from_eplb) * (1 + kCloseEnough));
  Placement other = Search(from_eplb, eplb_bound, Duplicate::kRemove,
                           /*spare_moves=*/false, kBudgetAfterSecond, budget);
  if (Max(other) < best_max) best = std::move(other);
  if (Max(best) <= limit * (1 + kRounding)) return best;

  // Seldom: worth a longer search without duplicates, and only then EPLB's own
  // placement with them, of which moves can but lower the maximum.
  int64_t long_budget = kLongBudget;
  best = Search(DomainsOf(best), limit, Duplicate::kRemove,
                /*spare_moves=*/false, /*reserve=*/0, long_budget);
  if (Max(best) <= limit * (1 + kRounding)) return best;
  int64_t last_budget = kLastBudget;
  return Search(from_eplb, eplb_bound, Duplicate::kKeep,
                /*spare_moves=*/false, /*reserve=*/0, last_budget);
}

// A placement near the present one whose maximum is at most `target`, if there
// is one.
std::optional<Placement> LayerBalancer::Near(const Placement& present,
                                             double target,
                                             int64_t& budget) const {
  if (!KeepsGroups(shape_, present)) return std::nullopt;
  Placement near = Search(DomainsOf(present), target, Duplicate::kRemove,
                          /*spare_moves=*/true, /*reserve=*/0, budget);
  if (Max(near) > target * (1 + kRounding)) return std::nullopt;
  return ReturnTo(present, near, target);
}

Placement LayerBalancer::ReturnTo(const Placement& present,
                                  const Placement& placement,
                                  double target) const {
  Placement result;
  const std::vector<Domain> domains = DomainsOf(placement);
  for (int d = 0; d < num_domains_; ++d) {
    const Domain& domain = domains[d];
    // The present experts by their local names, -1 for those of other domains.
    std::vector<int32_t> before(slots_per_domain_);
    for (int slot = 0; slot < slots_per_domain_; ++slot) {
      const int32_t expert = present.expert[d * slots_per_domain_ + slot];
      const auto at = std::lower_bound(domain.experts.begin(),
                                       domain.experts.end(), expert);
      before[slot] = at != domain.experts.end() && *at == expert
                         ? at - domain.experts.begin()
                         : -1;
    }
    PlacementSearch search(domain.load, slots_per_domain_, gpus_per_domain_);
    search.Start(domain.local);
    search.ReturnTo(before, target);
    for (const int32_t local : search.expert()) {
      result.expert.push_back(domain.experts[local]);
    }
  }
  return result;
}

int NumChanged(const Placement& a, const Placement& b) {
  int num_changed = 0;
  for (size_t slot = 0; slot < a.expert.size(); ++slot) {
    num_changed += a.expert[slot] != b.expert[slot];
  }
  return num_changed;
}

}  // namespace

absl::StatusOr<Rebalanced> Rebalance(const PlacementShape& shape,
                                     absl::Span<const double> load,
                                     const RebalanceOptions& options,
                                     const Placement* present) {
  ASSIGN_OR_RETURN(const EplbPlacement eplb, PlaceByEplb(shape, load));
  if (present != nullptr) RETURN_IF_ERROR(ValidatePlacement(shape, *present));
  if (options.bytes_per_expert < 0) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "bytes_per_expert is %d; want at least 0", options.bytes_per_expert));
  }
  const std::pair<const char*, double> shares[] = {
      {"slack", options.slack}, {"max_above_eplb", options.max_above_eplb}};
  for (const auto& [name, share] : shares) {
    if (!(share >= 0) || !std::isfinite(share)) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "%s is %g; want a finite number from 0 on", name, share));
    }
  }

  const LayerBalancer balancer(shape, load);
  const double limit = balancer.Max(eplb.placement);
  Rebalanced result;
  int64_t budget = kBudget;
  result.placement = balancer.Best(eplb.placement, limit, budget);
  if (present != nullptr) {
    const double best_max = balancer.Max(result.placement);
    const double target =
        std::max(best_max, std::min(limit * (1 + options.max_above_eplb),
                                    best_max * (1 + options.slack)));
    const std::optional<Placement> near =
        balancer.Near(*present, target, budget);
    const bool near_will_do =
        near.has_value() &&
        balancer.Duplicates(*near) <= balancer.Duplicates(result.placement);
    // A placement from scratch shares few slots with the present one, even with
    // the best of names.
    if (!near_will_do ||
        NumChanged(*near, *present) > kManyChanged * shape.num_slots) {
      result.placement = balancer.ReturnTo(
          *present, RelabelToMatch(shape, *present, result.placement), target);
    }
    if (near_will_do &&
        NumChanged(*near, *present) <= NumChanged(result.placement, *present)) {
      result.placement = *near;
    }
    ASSIGN_OR_RETURN(result.migration,
                     PlanMigration(shape, *present, result.placement,
                                   options.bytes_per_expert));
  }
  result.max_over_mean = MaxOverMean(shape, result.placement, load);
  result.eplb_max_over_mean = MaxOverMean(shape, eplb.placement, load);
  result.lower_bound = MaxOverMeanLowerBound(shape, load);
  return result;
}

absl::StatusOr<ModelRebalanced> RebalanceLayers(
    const PlacementShape& shape, absl::Span<const std::vector<double>> load,
    const RebalanceOptions& options, absl::Span<const Placement> present) {
  if (load.empty()) return absl::InvalidArgumentError("no layers to place");
  if (!present.empty() && present.size() != load.size()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("present placements of %d layers, loads of %d",
                        present.size(), load.size()));
  }
  ModelRebalanced model;
  model.max_over_mean = 0;
  model.eplb_max_over_mean = 0;
  for (size_t layer = 0; layer < load.size(); ++layer) {
    absl::StatusOr<Rebalanced> placed =
        Rebalance(shape, load[layer], options,
                  present.empty() ? nullptr : &present[layer]);
    if (!placed.ok()) {
      return absl::Status(
          placed.status().code(),
          absl::StrCat("layer ", layer, ": ", placed.status().message()));
    }
    model.slots_changed += placed->migration.copies.size();
    model.bytes_moved += placed->migration.bytes_moved;
    model.bytes_between_nodes += placed->migration.bytes_between_nodes;
    model.max_over_mean += placed->max_over_mean / load.size();
    model.eplb_max_over_mean += placed->eplb_max_over_mean / load.size();
    model.layers.push_back(*std::move(placed));
  }
  return model;
}

}  // namespace strata
