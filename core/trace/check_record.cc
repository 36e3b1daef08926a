#include "core/trace/check_record.h"

#include <algorithm>
#include <cstdint>
#include <numeric>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/trace/routing_layout.h"
#include "core/trace/routing_record.h"
#include "core/trace/routing_trace.pb.h"

namespace strata {
namespace {

absl::Status CheckLength(const char* array, int64_t length, int64_t want) {
  if (length == want) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat(array, " has ", length, " entries; want ", want));
}

absl::Status CheckSequences(const RoutingLayout& layout,
                            const RoutingRecord& record) {
  if (layout.num_domains > 0) {
    RETURN_IF_ERROR(CheckLength("sequence_domain",
                                record.sequence_domain_size(),
                                record.sequence_tokens_size()));
  } else {
    RETURN_IF_ERROR(
        CheckLength("sequence_domain", record.sequence_domain_size(), 0));
  }
  for (const uint32_t domain : record.sequence_domain()) {
    if (domain >= layout.num_domains) {
      return absl::DataLossError(absl::StrCat(
          "a sequence is of domain ", domain, " of ", layout.num_domains));
    }
  }
  const int64_t tokens =
      std::accumulate(record.sequence_tokens().begin(),
                      record.sequence_tokens().end(), int64_t{0});
  const int64_t at_gate = GateTokens(layout, record, 0);
  if (record.sequence_tokens_size() > 0 && tokens != at_gate) {
    return absl::DataLossError(absl::StrCat(
        "sequences have ", tokens, " tokens, the first gate ", at_gate));
  }
  return absl::OkStatus();
}

// Tokens, exits and rows of one gate against each other and the tier before.
absl::Status CheckCounts(const RoutingLayout& layout,
                         const RoutingRecord& record, int64_t g) {
  const GateLayout& gate = layout.gates[g];
  const int64_t before = (gate.tier == 0 ? 0 : g - 1) * layout.num_ranks;
  for (int64_t r = 0; r < layout.num_ranks; ++r) {
    const int64_t at = g * layout.num_ranks + r;
    const int64_t tokens = record.tokens(at);
    const int64_t exits = record.exits(at);
    const int64_t expected =
        gate.tier == 0
            ? record.tokens(r)
            : int64_t{record.tokens(before + r)} - record.exits(before + r);
    if (tokens != expected || exits > tokens) {
      return absl::DataLossError(absl::StrCat(
          "gate ", gate.layer, ".", gate.tier, " of rank ", r, " has ", tokens,
          " tokens, ", exits, " of which left; ", expected, " were to come"));
    }
    int64_t rows = 0;
    for (const uint32_t n : RankRows(layout, record, g, r)) rows += n;
    if (rows > (tokens - exits) * gate.k_max) {
      return absl::DataLossError(
          absl::StrCat("gate ", gate.layer, ".", gate.tier, " of rank ", r,
                       " has ", rows, " rows; ", tokens - exits,
                       " tokens of at most ", gate.k_max, " experts stayed"));
    }
  }
  return absl::OkStatus();
}

// The choices against the counts.
absl::Status CheckChosen(const GateLayout& gate, int64_t rows,
                         const TokenChoices& choices) {
  int64_t chosen = 0;
  for (int64_t i = 0; i < choices.num_tokens; ++i) {
    const int32_t* const row = &choices.expert[i * gate.k_max];
    for (int64_t j = 0; j < gate.k_max; ++j) {
      chosen += row[j] >= 0;
      if (row[j] >= gate.num_experts ||
          (row[j] >= 0 && j > 0 && row[j - 1] < 0)) {
        return absl::DataLossError(
            absl::StrCat("token ", i, " of gate ", gate.layer, ".", gate.tier,
                         " has expert ", row[j], " of ", gate.num_experts,
                         " as its choice ", j));
      }
    }
    if (choices.left[i] != 0 && row[0] >= 0) {
      return absl::DataLossError(absl::StrCat("token ", i, " of gate ",
                                              gate.layer, ".", gate.tier,
                                              " left and has an expert"));
    }
  }
  if (chosen != rows) {
    return absl::DataLossError(absl::StrCat("gate ", gate.layer, ".", gate.tier,
                                            " has ", chosen, " choices, but ",
                                            rows, " rows"));
  }
  return absl::OkStatus();
}

absl::Status CheckTokens(const RoutingLayout& layout,
                         const RoutingRecord& record) {
  int64_t chosen = 0;
  int64_t weights = 0;
  int64_t considered = 0;
  int64_t left = 0;
  const int64_t num_gates = layout.has_tokens ? layout.gates.size() : 0;
  for (int64_t g = 0; g < num_gates; ++g) {
    const GateLayout& gate = layout.gates[g];
    const int64_t tokens = GateTokens(layout, record, g);
    chosen += tokens * gate.k_max * gate.id_bytes();
    weights += GateRows(layout, record, g) * kTraceWeightBytes;
    considered += tokens * gate.considered_bytes();
    left += (tokens + 7) / 8;
  }
  RETURN_IF_ERROR(CheckLength("chosen", record.chosen().size(), chosen));
  RETURN_IF_ERROR(CheckLength("weight", record.weight().size(), weights));
  RETURN_IF_ERROR(
      CheckLength("considered", record.considered().size(), considered));
  RETURN_IF_ERROR(CheckLength("left", record.left().size(), left));
  for (int64_t g = 0; g < num_gates; ++g) {
    ASSIGN_OR_RETURN(
        const TokenChoices choices,
        DecodeChoices(layout, record, g, /*with_considered=*/false));
    RETURN_IF_ERROR(
        CheckChosen(layout.gates[g], GateRows(layout, record, g), choices));
    const int64_t num_left =
        std::count(choices.left.begin(), choices.left.end(), 1);
    RETURN_IF_ERROR(
        CheckLength("left bits", num_left, GateExits(layout, record, g)));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckRecord(const RoutingLayout& layout,
                         const RoutingRecord& record) {
  const int64_t num_gates = layout.gates.size();
  RETURN_IF_ERROR(CheckLength("tokens", record.tokens_size(),
                              num_gates * layout.num_ranks));
  RETURN_IF_ERROR(
      CheckLength("exits", record.exits_size(), num_gates * layout.num_ranks));
  RETURN_IF_ERROR(CheckLength("rows", record.rows_size(), layout.num_rows));
  RETURN_IF_ERROR(CheckSequences(layout, record));
  for (int64_t g = 0; g < num_gates; ++g) {
    RETURN_IF_ERROR(CheckCounts(layout, record, g));
  }
  return CheckTokens(layout, record);
}

}  // namespace strata
