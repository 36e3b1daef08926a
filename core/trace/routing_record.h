// Records of a routing trace: from what gates chose, and back.
//
//   of each gate: expert [T_g, K_g], weight, considered
//     |
//     |  EncodeChoices: counts by rank, and the tokens' choices as bytes
//     v
//   RoutingRecord  (routing_trace.proto)
//     |
//     |  DecodeChoices
//     v
//   of one gate: expert [T_g, K_g], ..., as a replay wants them

#ifndef CORE_TRACE_ROUTING_RECORD_H_
#define CORE_TRACE_ROUTING_RECORD_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/trace/routing_layout.h"
#include "core/trace/routing_trace.pb.h"

namespace strata {

// What one gate did with the tokens that reached it, in the batch's order.
struct GateChoices {
  int64_t num_tokens = 0;
  absl::Span<const int32_t> expert;      // [tokens, k_max], -1 past the last
  absl::Span<const float> weight;        // [tokens, k_max]; empty: not recorded
  absl::Span<const uint8_t> considered;  // [tokens, experts], 0 or 1; or empty
};

// Fills `record`'s arrays over gates; its step, micro-batch and sequences are
// the caller's. Rank r has the tokens from r T / num_ranks on.
//
// A token without an expert left, if as many as these are missing at the next
// tier; if none is missing, the model does not let tokens leave.
//
// Returns INTERNAL if any other number is missing, so that a trace never says
// of a token what is not so.
absl::Status EncodeChoices(const RoutingLayout& layout,
                           absl::Span<const GateChoices> gates,
                           RoutingRecord& record);

// Sums over ranks. The record must be as CheckRecord
// (core/trace/check_record.h) wants it, as one of RoutingReader's is.
int64_t GateTokens(const RoutingLayout& layout, const RoutingRecord& record,
                   int64_t gate);
int64_t GateExits(const RoutingLayout& layout, const RoutingRecord& record,
                  int64_t gate);
int64_t GateRows(const RoutingLayout& layout, const RoutingRecord& record,
                 int64_t gate);

// Rows of each expert of the gate that came from `rank`.
absl::Span<const uint32_t> RankRows(const RoutingLayout& layout,
                                    const RoutingRecord& record, int64_t gate,
                                    int64_t rank);

// The token-level choices of one gate.
struct TokenChoices {
  int64_t num_tokens = 0;
  std::vector<int32_t> expert;      // [tokens, k_max], best first, -1 past
                                    // the last
  std::vector<float> weight;        // [tokens, k_max], 0 past the last
  std::vector<uint8_t> considered;  // [tokens, experts], 0 or 1; empty if no
                                    // filter drops experts
  std::vector<uint8_t> left;        // [tokens], 1: left at this gate
};

// `with_considered`: also who survived the coarse filter.
//
// Returns FAILED_PRECONDITION if the trace was recorded without tokens.
absl::StatusOr<TokenChoices> DecodeChoices(const RoutingLayout& layout,
                                           const RoutingRecord& record,
                                           int64_t gate,
                                           bool with_considered = true);

}  // namespace strata

#endif  // CORE_TRACE_ROUTING_RECORD_H_
