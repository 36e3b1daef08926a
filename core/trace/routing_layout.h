// How a record's arrays are laid out: what the header of a routing trace says,
// checked, with the positions that follow from it.

#ifndef CORE_TRACE_ROUTING_LAYOUT_H_
#define CORE_TRACE_ROUTING_LAYOUT_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "core/trace/routing_trace.pb.h"

namespace strata {

inline constexpr uint32_t kRoutingTraceVersion = 1;

// Ids take two bytes at most; 0 stands for none.
inline constexpr uint32_t kMaxTraceExperts = 65535;
inline constexpr int64_t kTraceWeightBytes = 2;  // bfloat16

// An entry of a file; a header.
inline constexpr int64_t kMaxTraceEntryBytes = int64_t{64} << 20;
inline constexpr int64_t kMaxTraceHeaderBytes = int64_t{1} << 20;

struct GateLayout {
  int64_t layer = 0;
  int64_t tier = 0;
  int64_t num_experts = 0;
  int64_t k_max = 0;
  bool has_considered = false;
  bool is_last_tier = false;  // Of its layer.
  int64_t first_row = 0;      // Where its [ranks, experts] begin in `rows`.

  int64_t id_bytes() const { return num_experts > 255 ? 2 : 1; }
  // Of one token's survivors.
  int64_t considered_bytes() const {
    return has_considered ? (num_experts + 7) / 8 : 0;
  }
};

struct RoutingLayout {
  std::vector<GateLayout> gates;  // By layer, then tier.
  int64_t num_ranks = 1;
  int64_t num_rows = 0;  // Length of `rows`.
  int64_t num_domains = 0;
  bool has_tokens = false;

  // Returns INVALID_ARGUMENT if the version is another, if there is no gate,
  // if gates are out of order or a number is out of its range, or if a record's
  // counts alone would not fit into an entry.
  static absl::StatusOr<RoutingLayout> Create(const RoutingTraceHeader& header);
};

}  // namespace strata

#endif  // CORE_TRACE_ROUTING_LAYOUT_H_
