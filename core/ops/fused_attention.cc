#include "core/ops/fused_attention.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/base/status_macros.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/ops/absorbed_attention.h"
#include "core/ops/attention.h"
#include "core/ops/fused_checks.h"
#include "core/ops/operand_checks.h"
#include "core/ops/packed_cache.h"
#include "core/ops/paged_attention.h"
#include "core/ops/rope.h"
#include "core/tensor/dtype.h"

namespace strata {
namespace {

using Types = absl::StatusOr<std::vector<ValueType>>;

double Tokens(const OpView& op, int input, const Binding& binding) {
  return Extent(op.type(input).dims[0], binding);
}

// --- RopeTable ---

Types InferRopeTable(const OpView& op) {
  RETURN_IF_ERROR(WantRank(op, 0, "position", DType::kI32, 1));
  if (op.has(1)) RETURN_IF_ERROR(WantType(op, 1, "seq_len", op.type(0)));
  const int64_t rotary_dim = op.attrs.Int("rotary_dim");
  RETURN_IF_ERROR(WantInRange("rotary_dim", rotary_dim, 2, 1 << 20));
  const ValueType table = {op.attrs.Int("f64") != 0 ? DType::kF64 : DType::kF32,
                           {op.type(0).dims[0], Static(rotary_dim / 2)}};
  return std::vector<ValueType>{table, table};
}

// Rope counts the turning alone, and a table is made once for many.
double NoFlops(const OpView& op, const Binding& binding) { return 0; }

// --- NormQkv ---

struct QkvSizes {
  int64_t heads, kv_heads, head_dim, value_dim, rotary_dim;

  explicit QkvSizes(const OpView& op)
      : heads(op.attrs.Int("num_heads")),
        kv_heads(op.attrs.Int("num_kv_heads")),
        head_dim(op.type(kQkvWq).dims[0].bound / heads),
        value_dim(op.type(kQkvWv).dims[0].bound / kv_heads),
        rotary_dim(2 * op.type(kQkvCos).dims[1].bound) {}
};

absl::Status WantCaches(const OpView& op, const QkvSizes& s) {
  const DType of_x = op.type(kQkvX).dtype;
  RETURN_IF_ERROR(WantStored(op, kQkvKCache, "k_cache", of_x, s.kv_heads,
                             s.kv_heads * s.head_dim));
  RETURN_IF_ERROR(WantStored(op, kQkvVCache, "v_cache", of_x, s.kv_heads,
                             s.kv_heads * s.value_dim));
  const ValueType& v = op.type(kQkvVCache);
  return WantType(op, kQkvVCache, "v_cache",
                  {v.dtype, {op.type(kQkvKCache).dims[0], v.dims[1]}});
}

Types InferNormQkv(const OpView& op) {
  RETURN_IF_ERROR(WantFloat(op, kQkvX, "x", 2));
  const ValueType& x = op.type(kQkvX);
  const Dim t = x.dims[0], d = x.dims[1];
  RETURN_IF_ERROR(
      WantInRange("num_heads", op.attrs.Int("num_heads"), 1, int64_t{1} << 20));
  RETURN_IF_ERROR(WantInRange("num_kv_heads", op.attrs.Int("num_kv_heads"), 1,
                              op.attrs.Int("num_heads")));
  RETURN_IF_ERROR(WantType(op, kQkvGain, "gain", {x.dtype, {d}}));
  RETURN_IF_ERROR(WantFloat(op, kQkvCos, "cos", 2));
  for (const int w : {kQkvWq, kQkvWk, kQkvWv}) {
    RETURN_IF_ERROR(WantWeight(op, w, "weight", x.dtype, d));
  }
  const QkvSizes s(op);
  const auto columns = [&](int w) { return op.type(w).dims[0]; };
  if (columns(kQkvWq).bound % s.heads != 0 ||
      columns(kQkvWk).bound != s.kv_heads * s.head_dim ||
      columns(kQkvWv).bound % s.kv_heads != 0 || s.rotary_dim > s.head_dim) {
    return absl::InvalidArgumentError(absl::StrCat(
        "weights have ", columns(kQkvWq).bound, ", ", columns(kQkvWk).bound,
        " and ", columns(kQkvWv).bound, " rows, of which ", s.rotary_dim,
        " of a head turn; want ", s.heads, " heads of queries and ", s.kv_heads,
        " of keys and values"));
  }
  for (int i = 0; i < 3; ++i) {
    if (!op.has(kQkvBq)) break;
    RETURN_IF_ERROR(
        WantType(op, kQkvBq + i, "bias", {x.dtype, {columns(kQkvWq + i)}}));
  }
  for (const int gain : {kQkvQGain, kQkvKGain}) {
    if (!op.has(kQkvQGain)) break;
    RETURN_IF_ERROR(
        WantType(op, gain, "head gain", {x.dtype, {Static(s.head_dim)}}));
  }
  const ValueType table = {x.dtype, {t, op.type(kQkvCos).dims[1]}};
  RETURN_IF_ERROR(WantType(op, kQkvCos, "cos", table));
  RETURN_IF_ERROR(WantType(op, kQkvSin, "sin", table));
  RETURN_IF_ERROR(WantCaches(op, s));
  RETURN_IF_ERROR(WantType(op, kQkvRow, "row", {DType::kI32, {t}}));
  return std::vector<ValueType>{
      {x.dtype, {t, columns(kQkvWq)}},
      {x.dtype, {Static(std::min(t.bound, kFusedTileRows)), d}}};
}

double NormQkvFlops(const OpView& op, const Binding& binding) {
  const double t = Tokens(op, kQkvX, binding);
  const auto d = static_cast<double>(op.type(kQkvX).dims[1].bound);
  const QkvSizes s(op);
  const auto q = static_cast<double>(s.heads * s.head_dim);
  const auto k = static_cast<double>(s.kv_heads * s.head_dim);
  const auto v = static_cast<double>(s.kv_heads * s.value_dim);
  const double norm = 4 * d + (op.has(kQkvQGain) ? 4 * (q + k) : 0);
  const double bias = op.has(kQkvBq) ? q + k + v : 0;
  const auto turned =
      static_cast<double>((s.heads + s.kv_heads) * s.rotary_dim);
  return t * (norm + 2 * d * (q + k + v) + bias + 3 * turned);
}

// The tile stays in the processor; of the caches, the rows that are stored.
void NormQkvBytes(const OpView& op, const Binding& binding, Cost& cost) {
  cost.bytes_written = Bytes(op.output_type(0), binding);
  for (const int cache : {kQkvKCache, kQkvVCache}) {
    const ValueType& type = op.type(cache);
    cost.bytes_read -= Bytes(type, binding);
    cost.bytes_written +=
        Tokens(op, kQkvX, binding) * type.dims[1].bound * SizeOf(type.dtype);
  }
}

// --- AttendProject ---

OpView AttendView(const OpView& op, const AttendPart& part) {
  return {op.graph, op.inputs.subspan(0, part.num_inputs),
          op.outputs.empty() ? op.outputs : op.outputs.subspan(1), op.attrs};
}

template <const OpDef& fused>
Types InferAttend(const OpView& op) {
  const AttendPart& part = *FindAttendPart(fused);
  const int h = part.num_inputs, w = h + 1, bias = h + 2, kv_b = h + 3;
  if (static_cast<int>(op.inputs.size()) <= w) {
    return absl::InvalidArgumentError("h or w is missing");
  }
  auto attended = part.attend->infer(AttendView(op, part));
  if (!attended.ok()) return attended.status();
  ValueType o = (*attended)[0];
  const Dim tile = Static(std::min(o.dims[0].bound, kFusedTileRows));
  std::vector<ValueType> types(2, o);
  types[1].dims[0] = tile;
  if (part.latent) {
    const int64_t heads = op.attrs.Int("num_heads");
    RETURN_IF_ERROR(WantType(
        op, kv_b, "kv_b",
        {o.dtype,
         {Static(heads * (op.attrs.Int("nope") + op.attrs.Int("value"))),
          Static(op.attrs.Int("rank"))}}));
    o.dims[1] = Static(heads * op.attrs.Int("value"));
    types.push_back({o.dtype, {tile, o.dims[1]}});
  }
  RETURN_IF_ERROR(WantFloat(op, h, "h", 2));
  const Dim d = op.type(h).dims[1];
  RETURN_IF_ERROR(WantType(op, h, "h", {o.dtype, {o.dims[0], d}}));
  RETURN_IF_ERROR(WantWeight(op, w, "w", o.dtype, o.dims[1]));
  RETURN_IF_ERROR(WantType(op, w, "w", {op.type(w).dtype, {d, o.dims[1]}}));
  if (op.has(bias)) {
    RETURN_IF_ERROR(WantType(op, bias, "bias", {o.dtype, {d}}));
  }
  types[0] = op.type(h);
  return types;
}

Types InferPackedLatents(const OpView& op) {
  if (op.has(kPackedV)) {
    return absl::InvalidArgumentError(
        "there is a v_cache; want latents, whose first columns are the values");
  }
  return InferAttend<kPackedLatentAttendProject>(op);
}

Types InferPackedHeads(const OpView& op) {
  if (!op.has(kPackedV)) {
    return absl::InvalidArgumentError("v_cache is missing; want heads' values");
  }
  return InferAttend<kPackedAttendProject>(op);
}

template <const OpDef& fused>
double AttendFlops(const OpView& op, const Binding& binding) {
  const AttendPart& part = *FindAttendPart(fused);
  const int h = part.num_inputs;
  const double t = Tokens(op, h, binding);
  const auto d = static_cast<double>(op.type(h).dims[1].bound);
  const auto k = static_cast<double>(op.type(h + 1).dims[1].bound);
  double flops = part.attend->flops(AttendView(op, part), binding) +
                 t * (2 * d * k + d + (op.has(h + 2) ? d : 0));
  if (part.latent) {
    flops += 2 * t *
             static_cast<double>(op.attrs.Int("num_heads") *
                                 op.attrs.Int("rank") * op.attrs.Int("value"));
  }
  return flops;
}

// The tiles stay in the processor.
void AttendBytes(const OpView& op, const Binding& binding, Cost& cost) {
  cost.bytes_written = Bytes(op.output_type(0), binding);
}

}  // namespace

const OpDef kRopeTable = {"RopeTable", InferRopeTable, nullptr, NoFlops};
const OpDef kNormQkv = {"NormQkv",
                        InferNormQkv,
                        nullptr,
                        NormQkvFlops,
                        /*mutates=*/{kQkvKCache, kQkvVCache},
                        NormQkvBytes};
const OpDef kPagedAttendProject = {"PagedAttendProject",
                                   InferAttend<kPagedAttendProject>,
                                   nullptr,
                                   AttendFlops<kPagedAttendProject>,
                                   /*mutates=*/{},
                                   AttendBytes};
const OpDef kCachedAttendProject = {"CachedAttendProject",
                                    InferAttend<kCachedAttendProject>,
                                    nullptr,
                                    AttendFlops<kCachedAttendProject>,
                                    /*mutates=*/{},
                                    AttendBytes};
const OpDef kPagedLatentAttendProject = {"PagedLatentAttendProject",
                                         InferAttend<kPagedLatentAttendProject>,
                                         nullptr,
                                         AttendFlops<kPagedLatentAttendProject>,
                                         /*mutates=*/{},
                                         AttendBytes};
const OpDef kCachedLatentAttendProject = {
    "CachedLatentAttendProject",
    InferAttend<kCachedLatentAttendProject>,
    nullptr,
    AttendFlops<kCachedLatentAttendProject>,
    /*mutates=*/{},
    AttendBytes};
const OpDef kPackedAttendProject = {"PackedAttendProject",
                                    InferPackedHeads,
                                    nullptr,
                                    AttendFlops<kPackedAttendProject>,
                                    /*mutates=*/{},
                                    AttendBytes};
const OpDef kPackedLatentAttendProject = {
    "PackedLatentAttendProject",
    InferPackedLatents,
    nullptr,
    AttendFlops<kPackedLatentAttendProject>,
    /*mutates=*/{},
    AttendBytes};

namespace {

constexpr AttendPart kAttendParts[] = {
    {&kPagedAttendProject, &kPagedAttention, 6, false},
    {&kCachedAttendProject, &kCachedAttention, 5, false},
    {&kPagedLatentAttendProject, &kPagedLatentAttention, 5, true},
    {&kCachedLatentAttendProject, &kCachedLatentAttention, 4, true},
    {&kPackedAttendProject, &kPackedAttention, kNumPackedInputs, false},
    {&kPackedLatentAttendProject, &kPackedAttention, kNumPackedInputs, true},
};

}  // namespace

const AttendPart* FindAttendPart(const OpDef& fused) {
  for (const AttendPart& part : kAttendParts) {
    if (part.fused->name == fused.name) return &part;
  }
  return nullptr;
}

const AttendPart* FindAttendPartOf(const Node& attend) {
  // Of one operator for both it is the values that tell.
  const bool packed = attend.op->name == kPackedAttention.name;
  for (const AttendPart& part : kAttendParts) {
    if (part.attend->name != attend.op->name) continue;
    if (!packed || part.latent == (attend.inputs[kPackedV] == kNone)) {
      return &part;
    }
  }
  return nullptr;
}

Attrs RopeTableAttrs(const RopeOptions& options, DType compute) {
  return {{"f64", int64_t{compute == DType::kF64}},
          {"num_heads", int64_t{1}},
          {"rotary_dim", options.rotary_dim},
          {"theta", options.theta},
          {"inverse", int64_t{0}},
          {"interleaved", int64_t{0}},
          {"magnitude", options.magnitude},
          {"stretch", static_cast<int64_t>(options.stretch)},
          {"factor", options.factor},
          {"original_len", options.original_len},
          {"low", options.low},
          {"high", options.high},
          {"truncate", int64_t{options.truncate}}};
}

Attrs NormQkvAttrs(const NormQkvOptions& options) {
  return {{"num_heads", options.num_heads},
          {"num_kv_heads", options.num_kv_heads},
          {"eps", options.eps},
          {"qk_eps", options.qk_eps},
          {"interleaved", int64_t{options.interleaved}},
          {"format", static_cast<int64_t>(options.cache.format)},
          {"attention_bits", int64_t{options.cache.attention_bits}}};
}

}  // namespace strata
