#include "core/trace/routing_record.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "core/base/check.h"
#include "core/trace/routing_layout.h"
#include "core/trace/routing_trace.pb.h"

namespace strata {
namespace {

// Rounds to the nearest bfloat16, ties to even. Weights are finite.
uint16_t ToBFloat16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

float FromBFloat16(uint16_t half) {
  const uint32_t bits = uint32_t{half} << 16;
  float x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}

void AppendUint16(uint16_t x, std::string& out) {
  out.push_back(static_cast<char>(x & 0xff));
  out.push_back(static_cast<char>(x >> 8));
}

uint8_t ByteAt(const std::string& bytes, int64_t at) {
  return static_cast<uint8_t>(bytes[at]);
}

uint16_t Uint16At(const std::string& bytes, int64_t at) {
  return static_cast<uint16_t>(ByteAt(bytes, at) | ByteAt(bytes, at + 1) << 8);
}

// Appends `n` flags as bits, lowest first, in whole bytes.
template <typename GetFlag>
void AppendBits(int64_t n, GetFlag flag, std::string& out) {
  for (int64_t i = 0; i < n; i += 8) {
    unsigned byte = 0;
    const int64_t end = std::min<int64_t>(8, n - i);
    for (int64_t j = 0; j < end; ++j) byte |= unsigned{flag(i + j)} << j;
    out.push_back(static_cast<char>(byte));
  }
}

bool BitAt(const std::string& bytes, int64_t first_byte, int64_t i) {
  return ByteAt(bytes, first_byte + i / 8) >> (i % 8) & 1;
}

void AppendTokens(const GateLayout& gate, const GateChoices& choices,
                  bool may_leave, RoutingRecord& record) {
  std::string& chosen = *record.mutable_chosen();
  for (const int32_t e : choices.expert) {
    if (gate.id_bytes() == 1) {
      chosen.push_back(static_cast<char>(e + 1));
    } else {
      AppendUint16(static_cast<uint16_t>(e + 1), chosen);
    }
  }
  CHECK_EQ(choices.weight.size(), choices.expert.size());
  for (size_t s = 0; s < choices.expert.size(); ++s) {
    if (choices.expert[s] < 0) continue;
    AppendUint16(ToBFloat16(choices.weight[s]), *record.mutable_weight());
  }
  if (gate.has_considered) {
    const int64_t n = gate.num_experts;
    CHECK_EQ(static_cast<int64_t>(choices.considered.size()),
             choices.num_tokens * n);
    for (int64_t i = 0; i < choices.num_tokens; ++i) {
      const uint8_t* const row = &choices.considered[i * n];
      AppendBits(
          n, [row](int64_t e) { return row[e] != 0; },
          *record.mutable_considered());
    }
  }
  AppendBits(
      choices.num_tokens,
      [&](int64_t i) {
        return may_leave && choices.expert[i * gate.k_max] < 0;
      },
      *record.mutable_left());
}

// A slice of one of a record's byte arrays: where gate `gate` begins, given how
// many bytes each gate has.
template <typename NumBytes>
int64_t FirstByte(int64_t gate, NumBytes num_bytes) {
  int64_t first = 0;
  for (int64_t g = 0; g < gate; ++g) first += num_bytes(g);
  return first;
}

}  // namespace

absl::Status EncodeChoices(const RoutingLayout& layout,
                           absl::Span<const GateChoices> gates,
                           RoutingRecord& record) {
  CHECK_EQ(gates.size(), layout.gates.size());
  const int64_t num_ranks = layout.num_ranks;
  const int64_t num_tokens = gates[0].num_tokens;
  record.clear_tokens();
  record.clear_exits();
  record.mutable_tokens()->Resize(gates.size() * num_ranks, 0);
  record.mutable_exits()->Resize(gates.size() * num_ranks, 0);
  record.clear_rows();
  record.mutable_rows()->Resize(layout.num_rows, 0);
  for (std::string* bytes :
       {record.mutable_chosen(), record.mutable_weight(),
        record.mutable_considered(), record.mutable_left()}) {
    bytes->clear();
  }

  // The rank of each token that reaches the gate at hand.
  std::vector<int32_t> rank;
  for (size_t g = 0; g < gates.size(); ++g) {
    const GateLayout& gate = layout.gates[g];
    const GateChoices& choices = gates[g];
    CHECK_EQ(static_cast<int64_t>(choices.expert.size()),
             choices.num_tokens * gate.k_max);
    if (gate.tier == 0) {
      rank.resize(num_tokens);
      for (int64_t r = 0; r < num_ranks; ++r) {
        std::fill(rank.begin() + r * num_tokens / num_ranks,
                  rank.begin() + (r + 1) * num_tokens / num_ranks, r);
      }
    }
    CHECK_EQ(choices.num_tokens, static_cast<int64_t>(rank.size()));

    uint32_t* const tokens =
        record.mutable_tokens()->mutable_data() + g * num_ranks;
    uint32_t* const rows =
        record.mutable_rows()->mutable_data() + gate.first_row;
    int64_t num_without = 0;
    for (int64_t i = 0; i < choices.num_tokens; ++i) {
      const int32_t* const expert = &choices.expert[i * gate.k_max];
      ++tokens[rank[i]];
      num_without += expert[0] < 0;
      uint32_t* const of_rank = rows + rank[i] * gate.num_experts;
      for (int64_t j = 0; j < gate.k_max && expert[j] >= 0; ++j) {
        ++of_rank[expert[j]];
      }
    }

    // A flat layer has nothing to leave.
    bool may_leave = gate.tier > 0;
    if (!gate.is_last_tier) {
      const int64_t missing = choices.num_tokens - gates[g + 1].num_tokens;
      may_leave = missing > 0;
      if (missing != 0 && missing != num_without) {
        return absl::InternalError(absl::StrCat(
            "gate ", gate.layer, ".", gate.tier, " had ", choices.num_tokens,
            " tokens, ", num_without, " of them without an expert; ",
            gates[g + 1].num_tokens, " reached the next tier"));
      }
    }
    if (layout.has_tokens) AppendTokens(gate, choices, may_leave, record);
    if (!may_leave) continue;
    uint32_t* const exits =
        record.mutable_exits()->mutable_data() + g * num_ranks;
    size_t num_stay = 0;
    for (int64_t i = 0; i < choices.num_tokens; ++i) {
      if (choices.expert[i * gate.k_max] < 0) {
        ++exits[rank[i]];
      } else {
        rank[num_stay++] = rank[i];
      }
    }
    rank.resize(num_stay);
  }
  return absl::OkStatus();
}

int64_t GateTokens(const RoutingLayout& layout, const RoutingRecord& record,
                   int64_t gate) {
  const auto first = record.tokens().begin() + gate * layout.num_ranks;
  return std::accumulate(first, first + layout.num_ranks, int64_t{0});
}

int64_t GateExits(const RoutingLayout& layout, const RoutingRecord& record,
                  int64_t gate) {
  const auto first = record.exits().begin() + gate * layout.num_ranks;
  return std::accumulate(first, first + layout.num_ranks, int64_t{0});
}

int64_t GateRows(const RoutingLayout& layout, const RoutingRecord& record,
                 int64_t gate) {
  int64_t rows = 0;
  for (int64_t r = 0; r < layout.num_ranks; ++r) {
    for (const uint32_t n : RankRows(layout, record, gate, r)) rows += n;
  }
  return rows;
}

absl::Span<const uint32_t> RankRows(const RoutingLayout& layout,
                                    const RoutingRecord& record, int64_t gate,
                                    int64_t rank) {
  const int64_t num_experts = layout.gates[gate].num_experts;
  return absl::MakeConstSpan(
      record.rows().data() + layout.gates[gate].first_row + rank * num_experts,
      num_experts);
}

absl::StatusOr<TokenChoices> DecodeChoices(const RoutingLayout& layout,
                                           const RoutingRecord& record,
                                           int64_t gate_index,
                                           bool with_considered) {
  if (!layout.has_tokens) {
    return absl::FailedPreconditionError(
        "the trace has counts alone; record it with --record-tokens");
  }
  const auto tokens = [&](int64_t g) { return GateTokens(layout, record, g); };
  const GateLayout& gate = layout.gates[gate_index];
  const int64_t first_chosen = FirstByte(gate_index, [&](int64_t g) {
    return tokens(g) * layout.gates[g].k_max * layout.gates[g].id_bytes();
  });
  int64_t next_weight = FirstByte(gate_index, [&](int64_t g) {
    return GateRows(layout, record, g) * kTraceWeightBytes;
  });
  const int64_t first_considered = FirstByte(gate_index, [&](int64_t g) {
    return tokens(g) * layout.gates[g].considered_bytes();
  });
  const int64_t first_left =
      FirstByte(gate_index, [&](int64_t g) { return (tokens(g) + 7) / 8; });

  TokenChoices out;
  out.num_tokens = tokens(gate_index);
  const int64_t num_slots = out.num_tokens * gate.k_max;
  out.expert.resize(num_slots);
  out.weight.resize(num_slots);
  const int64_t weight_end = record.weight().size();
  for (int64_t s = 0; s < num_slots; ++s) {
    const int64_t at = first_chosen + s * gate.id_bytes();
    out.expert[s] = (gate.id_bytes() == 1 ? ByteAt(record.chosen(), at)
                                          : Uint16At(record.chosen(), at)) -
                    1;
    // CheckRecord reads through here what may not fit.
    if (out.expert[s] < 0 || next_weight >= weight_end) continue;
    out.weight[s] = FromBFloat16(Uint16At(record.weight(), next_weight));
    next_weight += kTraceWeightBytes;
  }
  if (gate.has_considered && with_considered) {
    const int64_t num_experts = gate.num_experts;
    out.considered.resize(out.num_tokens * num_experts);
    for (int64_t i = 0; i < out.num_tokens; ++i) {
      const int64_t row = first_considered + i * gate.considered_bytes();
      for (int64_t e = 0; e < num_experts; ++e) {
        out.considered[i * num_experts + e] =
            BitAt(record.considered(), row, e);
      }
    }
  }
  out.left.resize(out.num_tokens);
  for (int64_t i = 0; i < out.num_tokens; ++i) {
    out.left[i] = BitAt(record.left(), first_left, i);
  }
  return out;
}

}  // namespace strata
