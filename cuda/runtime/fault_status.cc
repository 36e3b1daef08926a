#include "cuda/runtime/fault_status.h"

#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "cuda/runtime/fault.h"

namespace strata::gpu {

absl::Status FaultStatus(const Fault& fault) {
  const auto make = [&](absl::string_view what, absl::string_view is,
                        absl::string_view want) {
    return absl::InvalidArgumentError(absl::StrCat(
        what, " ", fault.place, " ", is, " ", fault.value, "; want ", want));
  };
  const std::string below = absl::StrCat("0 to ", fault.limit - 1);
  const std::string or_none = absl::StrCat("-1 to ", fault.limit - 1);
  const std::string rising = absl::StrCat("rising, to ", fault.limit);
  switch (static_cast<FaultKind>(fault.kind)) {
    case FaultKind::kNone:
      return absl::OkStatus();
    case FaultKind::kTokenId:
      return make("token", "has id", below);
    case FaultKind::kTarget:
      return make("token", "has target", or_none);
    case FaultKind::kExpert:
      return make("slot", "names expert", or_none);
    case FaultKind::kRowIndex:
      return make("index", "is row", below);
    case FaultKind::kPosition:
      return make("token", "has position", "0 or more");
    case FaultKind::kCacheRow:
      return make("token", "goes to, or sees, cache row", below);
    case FaultKind::kOffsets:
      return make("the rows of expert", "begin at", rising);
    case FaultKind::kSequence:
      return make("sequence", "starts at", rising);
    case FaultKind::kStep:
      return make("place", "has step", "1 or more");
    case FaultKind::kTable:
      return make("slot", "of the table holds expert", below);
    case FaultKind::kChoice:
      return make(
          "choice", "is expert",
          absl::StrCat("one of the ", fault.limit, " that has a slot, or -1"));
    case FaultKind::kNoSlot:
      return absl::InvalidArgumentError(absl::StrCat(
          "expert ", fault.place, " of ", fault.limit, " has no slot"));
    case FaultKind::kLatePeer:
      return absl::DeadlineExceededError(
          absl::StrCat("rank ", fault.place, " of its group has not come in ",
                       absl::FormatDuration(absl::Milliseconds(fault.limit))));
  }
  return absl::InternalError(
      absl::StrCat("a kernel reported fault ", fault.kind));
}

}  // namespace strata::gpu
