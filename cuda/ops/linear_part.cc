#include "cuda/ops/linear_part.h"

#include <cstdint>
#include <cstring>
#include <optional>

#include "core/quant/format.h"
#include "core/quant/packed_rows.h"
#include "cuda/kernels/quant_product.h"
#include "cuda/ops/decode/weight_rows.h"
#include "cuda/ops/elementwise.h"
#include "cuda/ops/grouped_matmul.h"
#include "cuda/ops/matmul.h"
#include "cuda/ops/quant_matmul.h"
#include "cuda/ops/sub_kernel.h"
#include "cuda/runtime/kernel.h"
#include "cuda_bf16.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {
namespace {

std::optional<QuantFormat> FormatOf(const Operand& w, int64_t k) {
  return FormatOfRow(w.dim(w.rank - 1), k);
}

// What QuantMatMul and QuantGroupedMatMul read.
class FormatAttributes : public AttributeReader {
 public:
  explicit FormatAttributes(const QuantFormat& format) : format_(format) {}
  int64_t Int(const char* name) const override {
    if (std::strcmp(name, "bits") == 0) return format_.bits;
    if (std::strcmp(name, "group") == 0) return format_.group;
    return format_.symmetric ? 1 : 0;
  }
  double Float(const char* name) const override { return 0; }
  const char* Text(const char* name) const override { return ""; }

 private:
  const QuantFormat format_;
};

}  // namespace

bool IsPacked(const Operand& w) { return w.element_size == 1; }

PackedRows WeightRows(const Operand& w, int64_t k) {
  const int64_t n = w.dim(w.rank - 2);
  if (w.element_size == 2) return Bf16Rows(w.as<__nv_bfloat16>(), n, k);
  const std::optional<QuantFormat> format =
      IsPacked(w) ? FormatOf(w, k) : std::nullopt;
  // Codes of 2 bits have no tiles: by the parts, whose product refuses them.
  if (!format.has_value() || format->bits == 2) return {};
  return DescribePacked(w.as<uint8_t>(), n, k, format->bits, format->group,
                        format->symmetric);
}

cudaError_t RunLinear(const KernelContext& ctx, const Operand& x,
                      const Operand& w, const Operand& y) {
  if (!IsPacked(w)) {
    return RunPart(ctx, RunMatMul, {x, w}, y, OneAttribute("transpose_rhs", 1));
  }
  const auto format = FormatOf(w, x.columns());
  if (!format.has_value()) return ctx.Refuse("rows packed in no format");
  return RunPart(ctx, RunQuantMatMul, {x, w}, y, FormatAttributes(*format));
}

cudaError_t RunLinearResidual(const KernelContext& ctx, const Operand& x,
                              const Operand& w, const Operand* bias,
                              const Operand& residual, const Operand& y) {
  const Operand product = TakeMatrix(ctx, x.rows(), w.dim(0));
  if (product.data == nullptr) return cudaErrorMemoryAllocation;
  cudaError_t e = RunLinear(ctx, x, w, product);
  if (e == cudaSuccess && bias != nullptr) {
    e = RunPart(ctx, RunAddBias, {product, *bias}, product);
  }
  if (e != cudaSuccess) return e;
  return RunPart(ctx, RunAdd, {residual, product}, y);
}

cudaError_t RunExpertLinear(const KernelContext& ctx, const Operand& x,
                            const Operand& w, const Operand& offset,
                            const Operand& y) {
  if (!IsPacked(w)) {
    return RunPart(ctx, RunGroupedMatMul, {x, w, offset}, y,
                   OneAttribute("transpose_w", 1));
  }
  const auto format = FormatOf(w, x.columns());
  if (!format.has_value()) return ctx.Refuse("rows packed in no format");
  return RunPart(ctx, RunQuantGroupedMatMul, {x, w, offset}, y,
                 FormatAttributes(*format));
}

}  // namespace strata::gpu
