#include "core/cpu/quant/move_codes.h"

#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/cpu/row_chunks.h"
#include "core/ops/move_codes.h"
#include "core/quant/format.h"
#include "core/quant/straight_through.h"
#include "core/runtime/kernel.h"
#include "core/runtime/kernel_registry.h"
#include "core/tensor/dtype.h"
#include "core/tensor/tensor.h"

namespace strata {
namespace {

absl::Status Run(const KernelContext& ctx) {
  const TensorView& w = ctx.in(0);
  const int64_t columns = w.shape.back();
  const int64_t rows = w.num_elements() / columns;
  AdamRates rates;
  rates.rate = *ctx.in(7).as<float>();
  rates.step = *ctx.in(8).as<int32_t>();
  if (rates.step < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("step is ", rates.step, "; want 1 or more"));
  }
  rates.beta1 = ctx.attrs().Float("beta1");
  rates.beta2 = ctx.attrs().Float("beta2");
  rates.eps = ctx.attrs().Float("eps");
  QuantFormat format;
  format.group = ctx.attrs().Int("group");
  format.symmetric = ctx.attrs().Int("symmetric") != 0;
  const int64_t groups = NumGroups(format, columns);
  const int32_t* const bits = ctx.in(6).as<int32_t>();
  const int64_t of_matrix = rows / ctx.in(6).num_elements();
  ForEachRow(ctx.pool, rows, columns, [&](int64_t row, int) {
    LearnedRow learned = {format,
                          columns,
                          ctx.in(2).as<float>() + row * columns,
                          ctx.in(3).as<float>() + row * groups,
                          ctx.in(4).as<float>() + row * groups,
                          ctx.in(5).as<float>() + row * groups * kGroupMoments};
    learned.format.bits = bits[row / of_matrix];
    MoveRow(learned, ctx.in(1).as<float>() + row * columns, rates,
            w.as<float>() + row * columns);
  });
  return absl::OkStatus();
}

}  // namespace

void RegisterMoveCodesKernels(KernelRegistry& kernels) {
  kernels.Register(kMoveCodes, DType::kF32, Run);
}

}  // namespace strata
