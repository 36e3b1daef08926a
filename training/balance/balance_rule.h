// When live balancing moves experts between the ranks of ep, and how much of
// them between two steps.

#ifndef TRAINING_BALANCE_BALANCE_RULE_H_
#define TRAINING_BALANCE_BALANCE_RULE_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/parallel/mesh.h"
#include "core/passes/partition/partition_experts.h"

namespace strata {

struct BalanceRule {
  enum class When {
    kNever,  // Experts stay, and nothing in the graphs says otherwise.
    kAlarm,  // While the spread of utilisation is above core/monitor's bound.
    kEvery,  // Every `steps` steps.
  };

  When when = When::kNever;
  int64_t steps = 0;
  // Of the slots that change between two steps, over the ranks of an ep group.
  // What does not fit goes on after the next step; one pair of experts may
  // always change places.
  int64_t max_bytes = int64_t{256} << 20;
  // Likewise, by the rate of the moves so far. Without spare slots only: with
  // copies the time that a move takes must not decide what a run computes.
  double max_seconds = 1;
  int spare = 0;  // Slots of each rank and gate for copies of experts.

  bool moves() const { return when != When::kNever; }
  ExpertSlots slots() const { return {moves(), spare}; }
};

// "never", "alarm", or a number of steps.
//
// Returns INVALID_ARGUMENT for anything else.
absl::StatusOr<BalanceRule> ParseBalanceRule(absl::string_view text);

// Returns INVALID_ARGUMENT if ranks of that shape share no experts out, or a
// number of the rule is out of range.
absl::Status Validate(const BalanceRule& rule, const MeshShape& shape);

}  // namespace strata

#endif  // TRAINING_BALANCE_BALANCE_RULE_H_
