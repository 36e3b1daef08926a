#include "core/trace/routing_layout.h"

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/trace/routing_trace.pb.h"

namespace strata {
namespace {

// Every count takes a byte at least.
constexpr int64_t kMaxRows = kMaxTraceEntryBytes;

absl::Status CheckGate(const RoutingGate& gate, const GateLayout* previous) {
  const auto error = [&gate](auto&&... parts) {
    return absl::InvalidArgumentError(
        absl::StrCat("gate ", gate.layer(), ".", gate.tier(), parts...));
  };
  if (gate.num_experts() < 1 || gate.num_experts() > kMaxTraceExperts) {
    return error(" has ", gate.num_experts(), " experts; want 1 to ",
                 kMaxTraceExperts);
  }
  if (gate.k_max() < 1 || gate.k_max() > gate.num_experts()) {
    return error(" chooses up to ", gate.k_max(), " of ", gate.num_experts(),
                 " experts; want 1 to ", gate.num_experts());
  }
  const bool begins_layer =
      gate.tier() == 0 &&
      (previous == nullptr || previous->layer < gate.layer());
  const bool goes_on = previous != nullptr && previous->layer == gate.layer() &&
                       previous->tier + 1 == gate.tier();
  if (!begins_layer && !goes_on) {
    return error(" is out of order; want gates by layer, then tier from 0");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<RoutingLayout> RoutingLayout::Create(
    const RoutingTraceHeader& header) {
  if (header.format_version() != kRoutingTraceVersion) {
    return absl::InvalidArgumentError(
        absl::StrCat("format version is ", header.format_version(),
                     "; this program reads version ", kRoutingTraceVersion));
  }
  if (header.num_ranks() < 1) {
    return absl::InvalidArgumentError("0 ranks; want at least 1");
  }
  if (header.gates().empty()) {
    return absl::InvalidArgumentError(
        "no gate: the model has no mixture of experts");
  }
  RoutingLayout layout;
  layout.num_ranks = header.num_ranks();
  layout.num_domains = header.domains_size();
  layout.has_tokens = header.has_tokens();
  for (const RoutingGate& from : header.gates()) {
    GateLayout* const previous =
        layout.gates.empty() ? nullptr : &layout.gates.back();
    RETURN_IF_ERROR(CheckGate(from, previous));
    if (previous != nullptr) {
      previous->is_last_tier = previous->layer != from.layer();
    }
    GateLayout gate;
    gate.layer = from.layer();
    gate.tier = from.tier();
    gate.num_experts = from.num_experts();
    gate.k_max = from.k_max();
    gate.has_considered = from.has_considered();
    gate.first_row = layout.num_rows;
    layout.gates.push_back(gate);
    // The bound also keeps the product, below 2^32 * 2^16, from growing.
    layout.num_rows += gate.num_experts * layout.num_ranks;
    if (layout.num_rows > kMaxRows) {
      return absl::InvalidArgumentError(
          absl::StrCat("the gates' experts times ", layout.num_ranks,
                       " ranks are over ", kMaxRows, " counts a record"));
    }
  }
  layout.gates.back().is_last_tier = true;
  return layout;
}

}  // namespace strata
