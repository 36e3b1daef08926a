#include "core/ops/attention.h"

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/base/status_macros.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/ops/operand_checks.h"
#include "core/tensor/dtype.h"

namespace strata {
namespace {

struct Heads {
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;
};

// The heads of a node, checked against each other and the scale.
absl::StatusOr<Heads> InferHeads(const OpView& op) {
  const Heads heads = {op.attrs.Int("num_heads"), op.attrs.Int("num_kv_heads")};
  if (heads.num_kv_heads < 1 || heads.num_heads < heads.num_kv_heads ||
      heads.num_heads % heads.num_kv_heads != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "num_heads is ", heads.num_heads,
        "; want a multiple of num_kv_heads, which is ", heads.num_kv_heads));
  }
  const double scale = op.attrs.Float("scale");
  if (!(scale > 0)) {
    return absl::InvalidArgumentError(
        absl::StrCat("scale is ", scale, "; want more than 0"));
  }
  if (op.attrs.Int("window") < 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "window is ", op.attrs.Int("window"), "; want at least 0"));
  }
  return heads;
}

// Checks that the columns of `input` are `num_heads` equal heads, of
// `head_dim` columns each unless that is 0.
absl::Status WantHeads(const OpView& op, int input, absl::string_view name,
                       int64_t num_heads, int64_t head_dim) {
  const ValueType& type = op.type(input);
  const int64_t columns = type.dims[1].bound;
  if (columns % num_heads == 0 && columns > 0 &&
      (head_dim == 0 || columns == num_heads * head_dim)) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(
      name, " is ", ToText(op.graph, type), "; want ", num_heads, " heads",
      head_dim == 0 ? std::string()
                    : absl::StrCat(" of ", head_dim, " columns")));
}

// Checks q, k and v from input `first` on; returns the type of o.
absl::StatusOr<ValueType> InferOutput(const OpView& op, int first) {
  RETURN_IF_ERROR(WantFloat(op, first, "q", 2));
  RETURN_IF_ERROR(WantFloat(op, first + 1, "k", 2));
  RETURN_IF_ERROR(WantFloat(op, first + 2, "v", 2));
  ASSIGN_OR_RETURN(const Heads heads, InferHeads(op));
  const ValueType& q = op.type(first);
  const ValueType& k = op.type(first + 1);
  const ValueType& v = op.type(first + 2);
  RETURN_IF_ERROR(WantHeads(op, first, "q", heads.num_heads, 0));
  RETURN_IF_ERROR(WantHeads(op, first + 1, "k", heads.num_kv_heads,
                            q.dims[1].bound / heads.num_heads));
  RETURN_IF_ERROR(WantHeads(op, first + 2, "v", heads.num_kv_heads, 0));
  if (k.dtype != q.dtype || v.dtype != q.dtype || k.dims[0] != v.dims[0]) {
    return absl::InvalidArgumentError(absl::StrCat(
        "q is ", ToText(op.graph, q), ", k ", ToText(op.graph, k), " and v ",
        ToText(op.graph, v), "; want one dtype, and one row count of k and v"));
  }
  const int64_t value_dim = v.dims[1].bound / heads.num_kv_heads;
  return ValueType{q.dtype, {q.dims[0], Static(heads.num_heads * value_dim)}};
}

// Checks that k and v stand row by row beside q, and `seq_start`.
absl::Status CheckSequences(const OpView& op, int first, int seq_start) {
  const ValueType& q = op.type(first);
  if (op.type(first + 1).dims[0] != q.dims[0]) {
    return absl::InvalidArgumentError(absl::StrCat(
        "q is ", ToText(op.graph, q), " and k ",
        ToText(op.graph, op.type(first + 1)), "; want one row count"));
  }
  RETURN_IF_ERROR(WantRank(op, seq_start, "seq_start", DType::kI32, 1));
  const Dim n = op.type(seq_start).dims[0];
  if (!n.ragged() && n.bound >= 2) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("seq_start is ", ToText(op.graph, op.type(seq_start)),
                   "; want the first row of each sequence and the row count"));
}

absl::StatusOr<std::vector<ValueType>> Infer(const OpView& op) {
  ASSIGN_OR_RETURN(const ValueType o, InferOutput(op, 0));
  RETURN_IF_ERROR(CheckSequences(op, 0, 3));
  return std::vector<ValueType>{
      o, {o.dtype, {o.dims[0], Static(op.attrs.Int("num_heads"))}}};
}

absl::StatusOr<std::vector<ValueType>> InferGrad(const OpView& op) {
  ASSIGN_OR_RETURN(const ValueType o, InferOutput(op, 1));
  RETURN_IF_ERROR(CheckSequences(op, 1, 6));
  RETURN_IF_ERROR(WantType(op, 0, "do", o));
  RETURN_IF_ERROR(WantType(op, 4, "o", o));
  RETURN_IF_ERROR(WantType(
      op, 5, "lse", {o.dtype, {o.dims[0], Static(op.attrs.Int("num_heads"))}}));
  return std::vector<ValueType>{op.type(1), op.type(2), op.type(3)};
}

Attrs OptionAttrs(const AttentionOptions& options) {
  return {{"num_heads", options.num_heads},
          {"num_kv_heads", options.num_kv_heads},
          {"scale", options.scale},
          {"window", options.window}};
}

void Gradient(GradContext& g) {
  const ValueId dout = g.OutputGrad(0);
  if (dout == kNone) return;  // Nothing is differentiated through lse.
  if (!g.Needs(0) && !g.Needs(1) && !g.Needs(2)) return;
  const std::vector<ValueId> grads =
      g.Shared().Add(kAttentionGrad,
                     {dout, g.input(0), g.input(1), g.input(2), g.output(0),
                      g.output(1), g.input(3)},
                     g.attrs());
  for (const int i : {0, 1, 2}) {
    if (g.Needs(i)) g.Set(i, grads[i]);
  }
}

// Multiply-adds of one product of queries with keys, and of one of
// probabilities with values, times two. How the rows divide into sequences is
// data; taken as equal lengths L, token i of one sees i + 1 keys, so t tokens
// see t * (L + 1) / 2. A window w < L spares each sequence the triangle of
// (L - w) * (L - w + 1) / 2.
double PairFlops(const OpView& op, int first, int seq_start,
                 const Binding& binding) {
  const double t = Extent(op.type(first).dims[0], binding);
  const auto num_sequences =
      static_cast<double>(op.type(seq_start).dims[0].bound - 1);
  double pairs = t * (t / num_sequences + 1) / 2;
  const auto window = static_cast<double>(op.attrs.Int("window"));
  const double beyond = t / num_sequences - window;
  if (window > 0 && beyond > 0) {
    pairs -= num_sequences * beyond * (beyond + 1) / 2;
  }
  const auto num_heads = static_cast<double>(op.attrs.Int("num_heads"));
  const auto num_kv_heads = static_cast<double>(op.attrs.Int("num_kv_heads"));
  const double key_dim = op.type(first).dims[1].bound / num_heads;
  const double value_dim = op.type(first + 2).dims[1].bound / num_kv_heads;
  return 2 * pairs * num_heads * (key_dim + value_dim);
}

double Flops(const OpView& op, const Binding& binding) {
  return PairFlops(op, 0, 3, binding);
}

// Four products: dv = p^T do and dp = do v^T, dq = ds k and dk = ds^T q.
// Making p again is recomputation and not counted.
double GradFlops(const OpView& op, const Binding& binding) {
  return 2 * PairFlops(op, 1, 6, binding);
}

absl::StatusOr<std::vector<ValueType>> InferCacheWrite(const OpView& op) {
  RETURN_IF_ERROR(WantFloat(op, 0, "cache", 2));
  RETURN_IF_ERROR(WantFloat(op, 1, "rows", 2));
  const ValueType& cache = op.type(0);
  const Dim t = op.type(1).dims[0];
  RETURN_IF_ERROR(WantType(op, 1, "rows", {cache.dtype, {t, cache.dims[1]}}));
  RETURN_IF_ERROR(WantType(op, 2, "row", {DType::kI32, {t}}));
  return std::vector<ValueType>{};
}

double NoFlops(const OpView& op, const Binding& binding) { return 0; }

// Of the cache only the rows that are stored.
void CacheWriteBytes(const OpView& op, const Binding& binding, Cost& cost) {
  const double rows = Bytes(op.type(1), binding);
  cost.bytes_read = rows + Bytes(op.type(2), binding);
  cost.bytes_written = rows;
}

absl::StatusOr<std::vector<ValueType>> InferCopyCacheRows(const OpView& op) {
  RETURN_IF_ERROR(WantRank(op, 0, "cache", op.type(0).dtype, 2));
  RETURN_IF_ERROR(WantRank(op, 1, "from", DType::kI32, 1));
  RETURN_IF_ERROR(WantType(op, 2, "to", {DType::kI32, {op.type(1).dims[0]}}));
  return std::vector<ValueType>{};
}

void CopyCacheRowsBytes(const OpView& op, const Binding& binding, Cost& cost) {
  const ValueType row = {op.type(0).dtype,
                         {op.type(1).dims[0], op.type(0).dims[1]}};
  cost.bytes_written = Bytes(row, binding);
  cost.bytes_read = cost.bytes_written + 2 * Bytes(op.type(1), binding);
}

absl::StatusOr<std::vector<ValueType>> InferCached(const OpView& op) {
  ASSIGN_OR_RETURN(const ValueType o, InferOutput(op, 0));
  RETURN_IF_ERROR(WantType(op, 3, "first_row", {DType::kI32, {o.dims[0]}}));
  RETURN_IF_ERROR(WantType(op, 4, "position", {DType::kI32, {o.dims[0]}}));
  return std::vector<ValueType>{o};
}

// A bound: how many rows a token sees is data, and at most all of the cache.
double CachedFlops(const OpView& op, const Binding& binding) {
  const auto slots = static_cast<double>(op.type(1).dims[0].bound);
  const auto columns = static_cast<double>(op.type(0).dims[1].bound +
                                           op.output_type(0).dims[1].bound);
  return 2 * Extent(op.type(0).dims[0], binding) * slots * columns;
}

absl::StatusOr<std::vector<ValueType>> InferLatent(const OpView& op) {
  RETURN_IF_ERROR(WantFloat(op, 0, "kv", 2));
  RETURN_IF_ERROR(WantFloat(op, 1, "k_rope", 2));
  const ValueType& kv = op.type(0);
  const Dim rope = op.type(1).dims[1];
  RETURN_IF_ERROR(WantType(op, 1, "k_rope", {kv.dtype, {kv.dims[0], rope}}));
  const int64_t num_heads = op.attrs.Int("num_heads");
  const int64_t nope = op.attrs.Int("nope");
  const int64_t value = op.attrs.Int("value");
  if (num_heads < 1 || nope < 0 || value < 1 ||
      kv.dims[1].bound != num_heads * (nope + value)) {
    return absl::InvalidArgumentError(
        absl::StrCat("kv is ", ToText(op.graph, kv), "; want ", num_heads,
                     " heads of ", nope, " + ", value, " columns"));
  }
  return std::vector<ValueType>{
      {kv.dtype, {kv.dims[0], Static(num_heads * (nope + rope.bound))}},
      {kv.dtype, {kv.dims[0], Static(num_heads * value)}}};
}

absl::StatusOr<std::vector<ValueType>> InferLatentGrad(const OpView& op) {
  const int64_t num_heads = op.attrs.Int("num_heads");
  const int64_t nope = op.attrs.Int("nope");
  const int64_t value = op.attrs.Int("value");
  const int64_t rope = op.attrs.Int("rope");
  RETURN_IF_ERROR(op.has(0) ? WantFloat(op, 0, "dk", 2)
                            : WantFloat(op, 1, "dv", 2));
  const ValueType given = op.type(op.has(0) ? 0 : 1);
  const Dim t = given.dims[0];
  if (op.has(0)) {
    RETURN_IF_ERROR(WantType(
        op, 0, "dk", {given.dtype, {t, Static(num_heads * (nope + rope))}}));
  }
  if (op.has(1)) {
    RETURN_IF_ERROR(
        WantType(op, 1, "dv", {given.dtype, {t, Static(num_heads * value)}}));
  }
  return std::vector<ValueType>{
      {given.dtype, {t, Static(num_heads * (nope + value))}},
      {given.dtype, {t, Static(rope)}}};
}

void LatentGradient(GradContext& g) {
  if (!g.Needs(0) && !g.Needs(1)) return;
  GraphBuilder& b = g.Shared();
  const std::vector<ValueId> grads =
      b.Add(kLatentKeyValueGrad, {g.OutputGrad(0), g.OutputGrad(1)},
            {{"num_heads", g.attrs().Int("num_heads")},
             {"nope", g.attrs().Int("nope")},
             {"value", g.attrs().Int("value")},
             {"rope", b.type(g.input(1)).dims[1].bound}});
  for (const int i : {0, 1}) {
    if (g.Needs(i)) g.Set(i, grads[i]);
  }
}

// The gradients of the shared rotary part, summed over heads.
double LatentGradFlops(const OpView& op, const Binding& binding) {
  return static_cast<double>(op.attrs.Int("num_heads")) *
         Elements(op.output_type(1), binding);
}

}  // namespace

const OpDef kAttention = {"Attention", Infer, Gradient, Flops};
const OpDef kAttentionGrad = {"AttentionGrad", InferGrad, nullptr, GradFlops};
const OpDef kCacheWrite = {"CacheWrite", InferCacheWrite, nullptr,
                           NoFlops,      /*mutates=*/{0}, CacheWriteBytes};
const OpDef kCopyCacheRows = {"CopyCacheRows", InferCopyCacheRows,
                              nullptr,         NoFlops,
                              /*mutates=*/{0}, CopyCacheRowsBytes};
const OpDef kCachedAttention = {"CachedAttention", InferCached, nullptr,
                                CachedFlops};
const OpDef kLatentKeyValue = {"LatentKeyValue", InferLatent, LatentGradient,
                               NoFlops};
const OpDef kLatentKeyValueGrad = {"LatentKeyValueGrad", InferLatentGrad,
                                   nullptr, LatentGradFlops};

ValueId Attention(GraphBuilder& b, ValueId q, ValueId k, ValueId v,
                  ValueId seq_start, const AttentionOptions& options) {
  return b.Add(kAttention, {q, k, v, seq_start}, OptionAttrs(options))[0];
}

void CacheWrite(GraphBuilder& b, ValueId cache, ValueId rows, ValueId row) {
  b.Add(kCacheWrite, {cache, rows, row});
}

void CopyCacheRows(GraphBuilder& b, ValueId cache, ValueId from, ValueId to) {
  b.Add(kCopyCacheRows, {cache, from, to});
}

ValueId CachedAttention(GraphBuilder& b, ValueId q, ValueId k_cache,
                        ValueId v_cache, ValueId first_row, ValueId position,
                        const AttentionOptions& options) {
  return b.Add1(kCachedAttention, {q, k_cache, v_cache, first_row, position},
                OptionAttrs(options));
}

LatentKv LatentKeyValue(GraphBuilder& b, ValueId kv, ValueId k_rope,
                        int64_t num_heads, int64_t nope, int64_t value) {
  const std::vector<ValueId> out =
      b.Add(kLatentKeyValue, {kv, k_rope},
            {{"num_heads", num_heads}, {"nope", nope}, {"value", value}});
  return {out[0], out[1]};
}

}  // namespace strata
