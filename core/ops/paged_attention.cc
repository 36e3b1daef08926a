#include "core/ops/paged_attention.h"

#include <algorithm>
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

// Checks block_table, sequence and position, from input `first` on, against t
// and the cache, and what both operators have as attributes.
absl::Status CheckPages(const OpView& op, int first) {
  const Dim t = op.type(0).dims[0];
  RETURN_IF_ERROR(WantRank(op, first, "block_table", DType::kI32, 2));
  RETURN_IF_ERROR(WantType(op, first + 1, "sequence", {DType::kI32, {t}}));
  RETURN_IF_ERROR(WantType(op, first + 2, "position", {DType::kI32, {t}}));
  RETURN_IF_ERROR(
      WantInRange("block_size", op.attrs.Int("block_size"), 1, 1 << 20));
  const int64_t slots = op.type(1).dims[0].bound;
  if (slots % op.attrs.Int("block_size") != 0) {
    return absl::InvalidArgumentError(absl::StrCat("the cache has ", slots,
                                                   " slots; want blocks of ",
                                                   op.attrs.Int("block_size")));
  }
  if (!(op.attrs.Float("scale") > 0) || op.attrs.Int("window") < 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "scale is ", op.attrs.Float("scale"), " and window ",
        op.attrs.Int("window"), "; want more than 0, and at least 0"));
  }
  return absl::OkStatus();
}

absl::Status WantHeads(const OpView& op, int input, absl::string_view name,
                       int64_t num_heads, int64_t head_dim) {
  const ValueType& type = op.type(input);
  if (type.dims[1].bound == num_heads * head_dim && head_dim > 0) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat(name, " is ", ToText(op.graph, type), "; want ", num_heads,
                   " heads of ", std::max<int64_t>(1, head_dim), " columns"));
}

absl::StatusOr<std::vector<ValueType>> Infer(const OpView& op) {
  RETURN_IF_ERROR(WantFloat(op, 0, "q", 2));
  RETURN_IF_ERROR(WantFloat(op, 1, "k_cache", 2));
  RETURN_IF_ERROR(WantFloat(op, 2, "v_cache", 2));
  const int64_t num_heads = op.attrs.Int("num_heads");
  const int64_t num_kv_heads = op.attrs.Int("num_kv_heads");
  if (num_kv_heads < 1 || num_heads < 1 || num_heads % num_kv_heads != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "num_heads is ", num_heads,
        "; want a multiple of num_kv_heads, which is ", num_kv_heads));
  }
  const ValueType& q = op.type(0);
  const ValueType& k = op.type(1);
  const ValueType& v = op.type(2);
  const int64_t key_dim = q.dims[1].bound / num_heads;
  const int64_t value_dim = v.dims[1].bound / num_kv_heads;
  RETURN_IF_ERROR(WantHeads(op, 0, "q", num_heads, key_dim));
  RETURN_IF_ERROR(WantHeads(op, 1, "k_cache", num_kv_heads, key_dim));
  RETURN_IF_ERROR(WantHeads(op, 2, "v_cache", num_kv_heads, value_dim));
  if (k.dtype != q.dtype || v.dtype != q.dtype || k.dims[0] != v.dims[0]) {
    return absl::InvalidArgumentError(absl::StrCat(
        "q is ", ToText(op.graph, q), ", k_cache ", ToText(op.graph, k),
        " and v_cache ", ToText(op.graph, v),
        "; want one dtype, and as many slots for values as for keys"));
  }
  RETURN_IF_ERROR(CheckPages(op, 3));
  return std::vector<ValueType>{
      {q.dtype, {q.dims[0], Static(num_heads * value_dim)}}};
}

absl::StatusOr<std::vector<ValueType>> InferLatent(const OpView& op) {
  RETURN_IF_ERROR(WantFloat(op, 0, "q", 2));
  RETURN_IF_ERROR(WantFloat(op, 1, "cache", 2));
  const ValueType& q = op.type(0);
  const ValueType& cache = op.type(1);
  const int64_t num_heads = op.attrs.Int("num_heads");
  const int64_t columns = cache.dims[1].bound;
  const int64_t rank = op.attrs.Int("rank");
  RETURN_IF_ERROR(WantInRange("num_heads", num_heads, 1, 1 << 20));
  RETURN_IF_ERROR(WantInRange("rank", rank, 1, columns));
  RETURN_IF_ERROR(WantHeads(op, 0, "q", num_heads, columns));
  RETURN_IF_ERROR(WantType(op, 1, "cache", {q.dtype, cache.dims}));
  RETURN_IF_ERROR(CheckPages(op, 2));
  return std::vector<ValueType>{
      {q.dtype, {q.dims[0], Static(num_heads * rank)}}};
}

// A bound: how many tokens a token sees is data, and at most a row of the
// table.
double PairFlops(const OpView& op, int block_table, const Binding& binding) {
  const auto tokens = static_cast<double>(op.type(block_table).dims[1].bound *
                                          op.attrs.Int("block_size"));
  const auto columns = static_cast<double>(op.type(0).dims[1].bound +
                                           op.output_type(0).dims[1].bound);
  return 2 * Extent(op.type(0).dims[0], binding) * tokens * columns;
}

double Flops(const OpView& op, const Binding& binding) {
  return PairFlops(op, 3, binding);
}

double LatentFlops(const OpView& op, const Binding& binding) {
  return PairFlops(op, 2, binding);
}

}  // namespace

const OpDef kPagedAttention = {"PagedAttention", Infer, nullptr, Flops};
const OpDef kPagedLatentAttention = {"PagedLatentAttention", InferLatent,
                                     nullptr, LatentFlops};

ValueId PagedAttention(GraphBuilder& b, ValueId q, ValueId k_cache,
                       ValueId v_cache, const Pages& pages, ValueId position,
                       const AttentionOptions& options) {
  return b.Add1(
      kPagedAttention,
      {q, k_cache, v_cache, pages.block_table, pages.sequence, position},
      {{"num_heads", options.num_heads},
       {"num_kv_heads", options.num_kv_heads},
       {"scale", options.scale},
       {"window", options.window},
       {"block_size", pages.block_size}});
}

ValueId PagedLatentAttention(GraphBuilder& b, ValueId q, ValueId cache,
                             const Pages& pages, ValueId position,
                             const CachedLatentOptions& options) {
  return b.Add1(kPagedLatentAttention,
                {q, cache, pages.block_table, pages.sequence, position},
                {{"num_heads", options.num_heads},
                 {"num_kv_heads", int64_t{1}},
                 {"rank", options.rank},
                 {"scale", options.scale},
                 {"window", options.window},
                 {"block_size", pages.block_size}});
}

}  // namespace strata
