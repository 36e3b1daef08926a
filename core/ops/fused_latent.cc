#include "core/ops/fused_latent.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/base/status_macros.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/ops/fused_attention.h"
#include "core/ops/fused_checks.h"
#include "core/ops/operand_checks.h"
#include "core/ops/packed_cache.h"
#include "core/tensor/dtype.h"

namespace strata {
namespace {

struct Sizes {
  int64_t heads, nope, rope, value, rank;

  explicit Sizes(const OpView& op)
      : heads(op.attrs.Int("num_heads")),
        nope(op.attrs.Int("nope")),
        rope(op.attrs.Int("rope")),
        value(op.attrs.Int("value")),
        rank(op.type(kLatentKvB).dims[1].bound) {}
};

absl::StatusOr<std::vector<ValueType>> Infer(const OpView& op) {
  RETURN_IF_ERROR(WantFloat(op, kLatentX, "x", 2));
  const ValueType& x = op.type(kLatentX);
  const Dim t = x.dims[0], d = x.dims[1];
  RETURN_IF_ERROR(WantType(op, kLatentGain, "gain", {x.dtype, {d}}));
  RETURN_IF_ERROR(WantFloat(op, kLatentKvB, "kv_b", 2));
  const Sizes s(op);
  RETURN_IF_ERROR(WantInRange("num_heads", s.heads, 1, 1 << 20));
  RETURN_IF_ERROR(WantType(
      op, kLatentKvB, "kv_b",
      {x.dtype, {Static(s.heads * (s.nope + s.value)), Static(s.rank)}}));
  Dim q_columns = d;
  if (op.has(kLatentWqDown)) {
    RETURN_IF_ERROR(WantWeight(op, kLatentWqDown, "q_a", x.dtype, d));
    q_columns = op.type(kLatentWqDown).dims[0];
    RETURN_IF_ERROR(
        WantType(op, kLatentQGain, "q gain", {x.dtype, {q_columns}}));
    if (op.has(kLatentBqDown)) {
      RETURN_IF_ERROR(
          WantType(op, kLatentBqDown, "q bias", {x.dtype, {q_columns}}));
    }
  }
  RETURN_IF_ERROR(WantWeight(op, kLatentWq, "q_b", x.dtype, q_columns));
  RETURN_IF_ERROR(WantType(op, kLatentWq, "q_b",
                           {op.type(kLatentWq).dtype,
                            {Static(s.heads * (s.nope + s.rope)), q_columns}}));
  const Dim width = Static(s.rank + s.rope);
  RETURN_IF_ERROR(WantWeight(op, kLatentWkv, "kv_a", x.dtype, d));
  RETURN_IF_ERROR(WantType(op, kLatentWkv, "kv_a",
                           {op.type(kLatentWkv).dtype, {width, d}}));
  if (op.has(kLatentBkv)) {
    RETURN_IF_ERROR(WantType(op, kLatentBkv, "kv bias", {x.dtype, {width}}));
  }
  RETURN_IF_ERROR(
      WantType(op, kLatentKvGain, "kv gain", {x.dtype, {Static(s.rank)}}));
  const ValueType table = {x.dtype, {t, Static(s.rope / 2)}};
  RETURN_IF_ERROR(WantType(op, kLatentCos, "cos", table));
  RETURN_IF_ERROR(WantType(op, kLatentSin, "sin", table));
  RETURN_IF_ERROR(
      WantStored(op, kLatentCache, "cache", x.dtype, 1, width.bound));
  RETURN_IF_ERROR(WantType(op, kLatentRow, "row", {DType::kI32, {t}}));
  const Dim tile = Static(std::min(t.bound, kFusedTileRows));
  std::vector<ValueType> types = {
      {x.dtype, {t, Static(s.heads * (s.rank + s.rope))}},
      {x.dtype, {tile, d}},
      {x.dtype, {tile, width}}};
  if (op.has(kLatentWqDown)) types.push_back({x.dtype, {tile, q_columns}});
  return types;
}

double Flops(const OpView& op, const Binding& binding) {
  const Sizes s(op);
  const double t = Extent(op.type(kLatentX).dims[0], binding);
  const auto d = static_cast<double>(op.type(kLatentX).dims[1].bound);
  const auto heads = static_cast<double>(s.heads);
  const auto width = static_cast<double>(s.rank + s.rope);
  double flops = 4 * d;
  double q_columns = d;
  if (op.has(kLatentWqDown)) {
    q_columns = static_cast<double>(op.type(kLatentWqDown).dims[0].bound);
    flops += 2 * d * q_columns + 4 * q_columns +
             (op.has(kLatentBqDown) ? q_columns : 0);
  }
  flops += heads * (2 * q_columns * static_cast<double>(s.nope + s.rope) +
                    3 * static_cast<double>(s.rope) +
                    2 * static_cast<double>(s.nope * s.rank));
  // Down to the latent, its norm, its rotary part, and the sum of the two.
  flops += 2 * d * width + (op.has(kLatentBkv) ? width : 0) +
           4 * static_cast<double>(s.rank) + 3 * static_cast<double>(s.rope) +
           width;
  return t * flops;
}

// The tiles stay in the processor; of the cache, the rows that are stored; of
// kv_b what queries are multiplied by.
void CountBytes(const OpView& op, const Binding& binding, Cost& cost) {
  const Sizes s(op);
  const ValueType& cache = op.type(kLatentCache);
  cost.bytes_read -=
      Bytes(cache, binding) + Bytes(op.type(kLatentKvB), binding) *
                                  static_cast<double>(s.value) /
                                  static_cast<double>(s.nope + s.value);
  cost.bytes_written =
      Bytes(op.output_type(0), binding) +
      Extent(op.type(kLatentX).dims[0], binding) *
          static_cast<double>(cache.dims[1].bound * SizeOf(cache.dtype));
}

}  // namespace

const OpDef kLatentQkv = {"LatentQkv",
                          Infer,
                          nullptr,
                          Flops,
                          /*mutates=*/{kLatentCache},
                          CountBytes};

Attrs LatentQkvAttrs(const LatentQkvOptions& options) {
  return {{"num_heads", options.num_heads},
          {"nope", options.nope},
          {"rope", options.rope},
          {"value", options.value},
          {"eps", options.eps},
          {"q_eps", options.q_eps},
          {"kv_eps", options.kv_eps},
          {"interleaved", int64_t{options.interleaved}},
          {"format", static_cast<int64_t>(options.cache.format)},
          {"attention_bits", int64_t{options.cache.attention_bits}}};
}

}  // namespace strata
