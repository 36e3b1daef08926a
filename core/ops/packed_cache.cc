#include "core/ops/packed_cache.h"

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/base/status_macros.h"
#include "core/graph/attrs.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/ops/operand_checks.h"
#include "core/quant/cache_format.h"
#include "core/tensor/dtype.h"

namespace strata {
namespace {

absl::Status CheckCacheAttrs(const OpView& op) {
  RETURN_IF_ERROR(WantInRange("format", op.attrs.Int("format"),
                              static_cast<int>(CacheFormat::kBF16),
                              static_cast<int>(CacheFormat::kInt4)));
  return CheckCacheOptions(CacheOptionsOf(op.attrs));
}

// That `input` has rows of `num_heads` packed heads of `columns`.
absl::Status WantPackedHeads(const OpView& op, int input,
                             absl::string_view name, int64_t num_heads,
                             int64_t columns) {
  RETURN_IF_ERROR(WantRank(op, input, name, DType::kU8, 2));
  const CacheFormat format = CacheOptionsOf(op.attrs).format;
  const int64_t bytes = num_heads * CacheHeadBytes(format, columns);
  const ValueType& type = op.type(input);
  if (columns > 0 && type.dims[1] == Static(bytes)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(name, " is ", ToText(op.graph, type), "; want rows of ",
                   bytes, " bytes, which ", num_heads, " heads of ", columns,
                   " columns in ", ToText(format), " are"));
}

absl::Status WantWholeHeads(absl::string_view name, int64_t width,
                            int64_t num_heads) {
  if (num_heads >= 1 && width % num_heads == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(name, " has ", width, " columns; want a multiple of ",
                   num_heads, " heads"));
}

absl::StatusOr<std::vector<ValueType>> InferWrite(const OpView& op) {
  RETURN_IF_ERROR(CheckCacheAttrs(op));
  RETURN_IF_ERROR(WantRank(op, 1, "rows", DType::kF32, 2));
  const int64_t heads = op.attrs.Int("num_heads");
  const Dim t = op.type(1).dims[0];
  const int64_t width = op.type(1).dims[1].bound;
  RETURN_IF_ERROR(WantWholeHeads("rows", width, heads));
  RETURN_IF_ERROR(WantPackedHeads(op, 0, "cache", heads, width / heads));
  RETURN_IF_ERROR(WantType(op, 2, "row", {DType::kI32, {t}}));
  return std::vector<ValueType>{};
}

double NoFlops(const OpView& op, const Binding& binding) { return 0; }

// Of the cache only the rows that are stored.
void WriteBytes(const OpView& op, const Binding& binding, Cost& cost) {
  const double t = Extent(op.type(1).dims[0], binding);
  cost.bytes_read = Bytes(op.type(1), binding) + Bytes(op.type(2), binding);
  cost.bytes_written = t * static_cast<double>(op.type(0).dims[1].bound);
}

absl::StatusOr<std::vector<ValueType>> InferAttention(const OpView& op) {
  RETURN_IF_ERROR(CheckCacheAttrs(op));
  RETURN_IF_ERROR(WantRank(op, kPackedQ, "q", DType::kF32, 2));
  const Dim t = op.type(kPackedQ).dims[0];
  const int64_t width = op.type(kPackedQ).dims[1].bound;
  const int64_t heads = op.attrs.Int("num_heads");
  const int64_t kv_heads = op.attrs.Int("num_kv_heads");
  const int64_t value_dim = op.attrs.Int("value_dim");
  if (kv_heads < 1 || heads < 1 || heads % kv_heads != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("num_heads is ", heads,
                     "; want a multiple of num_kv_heads, which is ", kv_heads));
  }
  RETURN_IF_ERROR(WantWholeHeads("q", width, heads));
  const int64_t key_dim = width / heads;
  RETURN_IF_ERROR(WantPackedHeads(op, kPackedK, "k_cache", kv_heads, key_dim));
  const Dim slots = op.type(kPackedK).dims[0];
  if (op.has(kPackedV)) {
    RETURN_IF_ERROR(
        WantPackedHeads(op, kPackedV, "v_cache", kv_heads, value_dim));
    RETURN_IF_ERROR(WantType(op, kPackedV, "v_cache",
                             {DType::kU8, {slots, op.type(kPackedV).dims[1]}}));
  } else {
    RETURN_IF_ERROR(WantInRange("value_dim", value_dim, 1, key_dim));
  }
  if (op.has(kPackedTable)) {
    RETURN_IF_ERROR(WantRank(op, kPackedTable, "block_table", DType::kI32, 2));
    const int64_t size = op.attrs.Int("block_size");
    RETURN_IF_ERROR(WantInRange("block_size", size, 1, 1 << 20));
    if (slots.bound % size != 0) {
      return absl::InvalidArgumentError(absl::StrCat(
          "the cache has ", slots.bound, " slots; want blocks of ", size));
    }
  }
  RETURN_IF_ERROR(WantType(op, kPackedWhere, "where", {DType::kI32, {t}}));
  RETURN_IF_ERROR(
      WantType(op, kPackedPosition, "position", {DType::kI32, {t}}));
  if (!(op.attrs.Float("scale") > 0) || op.attrs.Int("window") < 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "scale is ", op.attrs.Float("scale"), " and window ",
        op.attrs.Int("window"), "; want more than 0, and at least 0"));
  }
  return std::vector<ValueType>{{DType::kF32, {t, Static(heads * value_dim)}}};
}

// A bound, as PagedAttention's.
double AttentionFlops(const OpView& op, const Binding& binding) {
  const int64_t tokens =
      op.has(kPackedTable)
          ? op.type(kPackedTable).dims[1].bound * op.attrs.Int("block_size")
          : op.type(kPackedK).dims[0].bound;
  const auto columns = static_cast<double>(op.type(kPackedQ).dims[1].bound +
                                           op.output_type(0).dims[1].bound);
  return 2 * Extent(op.type(kPackedQ).dims[0], binding) *
         static_cast<double>(tokens) * columns;
}

}  // namespace

const OpDef kPackedCacheWrite = {
    "PackedCacheWrite", InferWrite, nullptr, NoFlops,
    /*mutates=*/{0},    WriteBytes};
const OpDef kPackedAttention = {"PackedAttention", InferAttention, nullptr,
                                AttentionFlops};

CacheOptions CacheOptionsOf(const Attrs& attrs) {
  CacheOptions options;
  options.format = static_cast<CacheFormat>(attrs.Int("format"));
  options.attention_bits = static_cast<int>(attrs.Int("attention_bits"));
  return options;
}

absl::Status WantStored(const OpView& op, int input, absl::string_view name,
                        DType rows, int64_t num_heads, int64_t width) {
  const bool packed = op.type(input).dtype == DType::kU8;
  const CacheFormat format = CacheOptionsOf(op.attrs).format;
  if (packed != (format != CacheFormat::kF32) ||
      (packed && rows != DType::kF32)) {
    return absl::InvalidArgumentError(absl::StrCat(
        name, " is ", ToText(op.graph, op.type(input)), "; want one in ",
        ToText(format), " for rows in ", Name(rows)));
  }
  if (packed) {
    RETURN_IF_ERROR(CheckCacheAttrs(op));
    return WantPackedHeads(op, input, name, num_heads, width / num_heads);
  }
  RETURN_IF_ERROR(WantFloat(op, input, name, 2));
  return WantType(op, input, name,
                  {rows, {op.type(input).dims[0], Static(width)}});
}

Attrs PackedCacheWriteAttrs(int64_t num_heads, const CacheOptions& cache) {
  return {{"num_heads", num_heads},
          {"format", static_cast<int64_t>(cache.format)},
          {"attention_bits", int64_t{cache.attention_bits}}};
}

void PackedCacheWrite(GraphBuilder& b, ValueId cache, ValueId rows, ValueId row,
                      int64_t num_heads, const CacheOptions& cache_options) {
  b.Add(kPackedCacheWrite, {cache, rows, row},
        PackedCacheWriteAttrs(num_heads, cache_options));
}

Attrs PackedAttentionAttrs(const PackedAttentionOptions& options) {
  return {{"num_heads", options.heads.num_heads},
          {"num_kv_heads", options.heads.num_kv_heads},
          {"scale", options.heads.scale},
          {"window", options.heads.window},
          {"value_dim", options.value_dim},
          {"block_size", options.block_size},
          {"format", static_cast<int64_t>(options.cache.format)},
          {"attention_bits", int64_t{options.cache.attention_bits}}};
}

ValueId PackedAttention(GraphBuilder& b, ValueId q, ValueId k_cache,
                        ValueId v_cache, ValueId block_table, ValueId where,
                        ValueId position,
                        const PackedAttentionOptions& options) {
  return b.Add1(kPackedAttention,
                {q, k_cache, v_cache, block_table, where, position},
                PackedAttentionAttrs(options));
}

}  // namespace strata
