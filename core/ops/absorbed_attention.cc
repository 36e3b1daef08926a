#include "core/ops/absorbed_attention.h"

#include <cstdint>
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

LatentHeads HeadsOf(const Attrs& attrs) {
  return {attrs.Int("num_heads"), attrs.Int("nope"), attrs.Int("rope"),
          attrs.Int("value")};
}

Attrs HeadAttrs(const LatentHeads& heads) {
  return {{"num_heads", heads.num_heads},
          {"nope", heads.nope},
          {"rope", heads.rope},
          {"value", heads.value}};
}

absl::Status WantColumns(const OpView& op, int input, absl::string_view name,
                         int64_t num_heads, int64_t columns) {
  const ValueType& type = op.type(input);
  if (type.dims[1].bound == num_heads * columns) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(name, " is ", ToText(op.graph, type), "; want ", num_heads,
                   " heads of ", columns, " columns"));
}

// Checks x [t, heads * columns] (columns 0: of kv_b's rank) and kv_b; returns
// the rank.
absl::StatusOr<int64_t> CheckProduct(const OpView& op, absl::string_view name,
                                     int64_t columns) {
  RETURN_IF_ERROR(WantFloat(op, 0, name, 2));
  RETURN_IF_ERROR(WantFloat(op, 1, "kv_b", 2));
  const LatentHeads heads = HeadsOf(op.attrs);
  if (heads.num_heads < 1 || heads.nope < 1 || heads.rope < 0 ||
      heads.value < 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        "num_heads is ", heads.num_heads, ", nope ", heads.nope, ", rope ",
        heads.rope, ", value ", heads.value, "; want at least 1 (rope: 0)"));
  }
  const ValueType& kv_b = op.type(1);
  const int64_t rank = kv_b.dims[1].bound;
  RETURN_IF_ERROR(WantType(
      op, 1, "kv_b",
      {op.type(0).dtype,
       {Static(heads.num_heads * (heads.nope + heads.value)), Static(rank)}}));
  RETURN_IF_ERROR(
      WantColumns(op, 0, name, heads.num_heads, columns > 0 ? columns : rank));
  return rank;
}

absl::StatusOr<std::vector<ValueType>> InferQuery(const OpView& op) {
  const LatentHeads heads = HeadsOf(op.attrs);
  ASSIGN_OR_RETURN(const int64_t rank,
                   CheckProduct(op, "q", heads.nope + heads.rope));
  const ValueType& q = op.type(0);
  return std::vector<ValueType>{
      {q.dtype, {q.dims[0], Static(heads.num_heads * (rank + heads.rope))}}};
}

absl::StatusOr<std::vector<ValueType>> InferOutput(const OpView& op) {
  const LatentHeads heads = HeadsOf(op.attrs);
  RETURN_IF_ERROR(CheckProduct(op, "o", 0).status());
  const ValueType& o = op.type(0);
  return std::vector<ValueType>{
      {o.dtype, {o.dims[0], Static(heads.num_heads * heads.value)}}};
}

double ProductFlops(const OpView& op, const Binding& binding, int64_t columns) {
  return 2 * Extent(op.type(0).dims[0], binding) *
         static_cast<double>(op.attrs.Int("num_heads") * columns *
                             op.type(1).dims[1].bound);
}

double QueryFlops(const OpView& op, const Binding& binding) {
  return ProductFlops(op, binding, op.attrs.Int("nope"));
}

double OutputFlops(const OpView& op, const Binding& binding) {
  return ProductFlops(op, binding, op.attrs.Int("value"));
}

// Each of the two reads its own rows of kv_b.
void ProductBytes(const OpView& op, const Binding& binding, int64_t columns,
                  Cost& cost) {
  const auto all =
      static_cast<double>(op.attrs.Int("nope") + op.attrs.Int("value"));
  cost.bytes_read =
      Bytes(op.type(0), binding) + Bytes(op.type(1), binding) * columns / all;
}

void QueryBytes(const OpView& op, const Binding& binding, Cost& cost) {
  ProductBytes(op, binding, op.attrs.Int("nope"), cost);
}

void OutputBytes(const OpView& op, const Binding& binding, Cost& cost) {
  ProductBytes(op, binding, op.attrs.Int("value"), cost);
}

absl::StatusOr<std::vector<ValueType>> InferCached(const OpView& op) {
  RETURN_IF_ERROR(WantFloat(op, 0, "q", 2));
  RETURN_IF_ERROR(WantFloat(op, 1, "cache", 2));
  const ValueType& q = op.type(0);
  const ValueType& cache = op.type(1);
  const int64_t num_heads = op.attrs.Int("num_heads");
  const int64_t rank = op.attrs.Int("rank");
  const int64_t columns = cache.dims[1].bound;
  if (num_heads < 1 || rank < 1 || rank > columns) {
    return absl::InvalidArgumentError(absl::StrCat(
        "num_heads is ", num_heads, " and rank ", rank,
        "; want at least 1, and rank at most ", columns, ", the cache's"));
  }
  RETURN_IF_ERROR(WantColumns(op, 0, "q", num_heads, columns));
  RETURN_IF_ERROR(WantType(op, 1, "cache", {q.dtype, cache.dims}));
  RETURN_IF_ERROR(WantType(op, 2, "first_row", {DType::kI32, {q.dims[0]}}));
  RETURN_IF_ERROR(WantType(op, 3, "position", {DType::kI32, {q.dims[0]}}));
  if (!(op.attrs.Float("scale") > 0) || op.attrs.Int("window") < 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "scale is ", op.attrs.Float("scale"), " and window ",
        op.attrs.Int("window"), "; want more than 0, and at least 0"));
  }
  return std::vector<ValueType>{
      {q.dtype, {q.dims[0], Static(num_heads * rank)}}};
}

// A bound: how many rows a token sees is data, and at most all of the cache.
double CachedFlops(const OpView& op, const Binding& binding) {
  const auto slots = static_cast<double>(op.type(1).dims[0].bound);
  const auto columns = static_cast<double>(op.type(0).dims[1].bound +
                                           op.output_type(0).dims[1].bound);
  return 2 * Extent(op.type(0).dims[0], binding) * slots * columns;
}

}  // namespace

const OpDef kLatentQuery = {"LatentQuery",  InferQuery, nullptr, QueryFlops,
                            /*mutates=*/{}, QueryBytes};
const OpDef kLatentOutput = {"LatentOutput", InferOutput, nullptr, OutputFlops,
                             /*mutates=*/{}, OutputBytes};
const OpDef kCachedLatentAttention = {"CachedLatentAttention", InferCached,
                                      nullptr, CachedFlops};

ValueId LatentQuery(GraphBuilder& b, ValueId q, ValueId kv_b,
                    const LatentHeads& heads) {
  return b.Add1(kLatentQuery, {q, kv_b}, HeadAttrs(heads));
}

ValueId LatentOutput(GraphBuilder& b, ValueId o, ValueId kv_b,
                     const LatentHeads& heads) {
  return b.Add1(kLatentOutput, {o, kv_b}, HeadAttrs(heads));
}

ValueId CachedLatentAttention(GraphBuilder& b, ValueId q, ValueId cache,
                              ValueId first_row, ValueId position,
                              const CachedLatentOptions& options) {
  return b.Add1(kCachedLatentAttention, {q, cache, first_row, position},
                {{"num_heads", options.num_heads},
                 {"num_kv_heads", int64_t{1}},
                 {"rank", options.rank},
                 {"scale", options.scale},
                 {"window", options.window}});
}

}  // namespace strata
