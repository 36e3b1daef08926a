#include "core/model/sibling.h"

#include <algorithm>
#include <cstdint>

#include "absl/strings/str_cat.h"
#include "core/base/check.h"
#include "core/model/config.pb.h"
#include "core/model/count.h"

namespace strata {
namespace {

// Tuned with as many trials as the hierarchical model's own settings: docs/
// router.md, "The baseline".
constexpr double kBalanceWeight = 0.03;
constexpr double kScale = 1.5;

}  // namespace

ModelConfig FlatSibling(const ModelConfig& hierarchical, int64_t k) {
  CHECK(hierarchical.moe().has_hierarchical());
  CHECK_LT(NumDenseLayers(hierarchical), hierarchical.num_layers());
  const int64_t num_experts = NumRoutedExperts(hierarchical);
  CHECK(1 <= k && k <= num_experts) << "k is " << k << " of " << num_experts;

  ModelConfig flat = hierarchical;
  flat.set_name(absl::StrCat(hierarchical.name(), "-flat"));
  FlatRouterConfig& router = *flat.mutable_moe()->mutable_flat();
  router.set_num_experts(num_experts);
  router.set_k(k);
  router.set_score(FlatRouterConfig::SOFTMAX);
  router.set_normalize(true);
  router.set_scale(kScale);
  router.set_balance_weight(kBalanceWeight);

  // The count is linear in the width.
  flat.mutable_moe()->set_expert_width(0);
  const int64_t without_experts = CountParameters(flat);
  flat.mutable_moe()->set_expert_width(1);
  const int64_t unit = CountParameters(flat) - without_experts;
  const int64_t missing = CountParameters(hierarchical) - without_experts;
  flat.mutable_moe()->set_expert_width(
      std::max<int64_t>(1, (missing + unit - 1) / unit));
  return flat;
}

}  // namespace strata
