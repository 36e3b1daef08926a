#include "training/balance/balance_rule.h"

#include <cmath>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/parallel/mesh.h"

namespace strata {

absl::StatusOr<BalanceRule> ParseBalanceRule(absl::string_view text) {
  BalanceRule rule;
  if (text == "never") return rule;
  if (text == "alarm") {
    rule.when = BalanceRule::When::kAlarm;
    return rule;
  }
  int64_t steps = 0;
  if (!absl::SimpleAtoi(text, &steps) || steps < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("--rebalance is ", text,
                     "; want alarm, never or a number of steps from 1 on"));
  }
  rule.when = BalanceRule::When::kEvery;
  rule.steps = steps;
  return rule;
}

absl::Status Validate(const BalanceRule& rule, const MeshShape& shape) {
  if (rule.spare < 0 || rule.max_bytes < 1 || !(rule.max_seconds > 0) ||
      !std::isfinite(rule.max_seconds)) {
    return absl::InvalidArgumentError(
        absl::StrCat("spare slots are ", rule.spare, ", the budget of a move ",
                     rule.max_bytes, " bytes and ", rule.max_seconds,
                     " seconds; want at least 0, 1 and more than 0"));
  }
  if (!rule.moves()) {
    if (rule.spare == 0) return absl::OkStatus();
    return absl::InvalidArgumentError(
        "--spare-experts are for copies that --rebalance makes, and that is "
        "never");
  }
  if (shape.ep > 1) return absl::OkStatus();
  return absl::InvalidArgumentError(
      "--rebalance moves experts between the ranks of --ep, and --ep is 1");
}

}  // namespace strata
