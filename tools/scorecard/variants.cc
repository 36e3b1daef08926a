#include "tools/scorecard/variants.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "core/model/config.pb.h"
#include "core/model/count.h"
#include "core/model/sibling.h"

namespace strata {
namespace {

ModelConfig FlatOf(const ModelConfig& hierarchical, double share) {
  const auto k = static_cast<int64_t>(
      std::lround(share * static_cast<double>(NumRoutedExperts(hierarchical))));
  return FlatSibling(hierarchical, std::max<int64_t>(1, k));
}

}  // namespace

std::vector<Variant> VariantsOf(const ModelConfig& hierarchical,
                                const std::set<std::string>& ids) {
  std::vector<Variant> variants;
  const bool probe = ids.count("A2") > 0;
  variants.push_back({kV2, FlatOf(hierarchical, 0.30), probe});
  if (ids.count("A1") + ids.count("A2") > 0) {
    variants.push_back({kV3, hierarchical, probe});
    variants.push_back({kV1, variants[0].config, probe});
    variants.back().config.mutable_moe()->mutable_flat()->set_balance_weight(0);
  }
  if (ids.count("A1") + ids.count("A3") > 0) {
    variants.push_back({kV3Sparse, hierarchical});
    HierarchicalRouterConfig& router =
        *variants.back().config.mutable_moe()->mutable_hierarchical();
    // Trained as v3 is.
    if (router.tau_start() == 0) router.set_tau_start(router.tau());
    router.set_tau(std::min(kSparseTau, router.tau()));
  }
  if (ids.count("A3") > 0) {
    for (const FlatShare& share : kV2Shares) {
      variants.push_back({share.name, FlatOf(hierarchical, share.share)});
    }
  }
  return variants;
}

}  // namespace strata
