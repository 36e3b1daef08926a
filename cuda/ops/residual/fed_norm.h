// core/ops/fed_norm.h on the device.
//
//   before, rows      --FedNorm-->            x [t, width], both rstd [t]
//   dx, before, rows  --FedNormInputGrad-->   d_before, d_rows [t, width]
//   dx, before, rows  --FedNormWeightGrad-->  dgain, dfed_gain [width]
//
// Each only enqueues its work on `stream`. Rows of `before` and `rows` are F32,
// others F32 or BF16 (EitherRows); sums are F32. They are in the order of
// cuda/ops/rms_norm.h where rows are whole vectors, so that F32 results have
// the bits of the kernels of the operators that they stand for. Bound by
// memory: each operand is read once and each result written once.

#ifndef CUDA_OPS_RESIDUAL_FED_NORM_H_
#define CUDA_OPS_RESIDUAL_FED_NORM_H_

#include <cstdint>

#include "cuda/ops/bf16/either_rows.h"
#include "cuda/runtime/kernel.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

// Of a row: as many as the threads of a block hold.
constexpr int kMaxFedColumns = 8192;

struct FedNormArgs {
  const float* before = nullptr;    // [t, width]
  const float* rows = nullptr;      // [t, width]
  const float* gain = nullptr;      // [width]
  const float* fed_gain = nullptr;  // [width]
  EitherRows x;                     // [t, width]
  float* rstd = nullptr;            // [t]
  float* fed_rstd = nullptr;        // [t]
  Extent tokens;
  int width = 0;
  float eps = 0;
};

struct FedNormInputGradArgs {
  EitherRows dx;                    // [t, width]
  const float* before = nullptr;    // [t, width]
  const float* rows = nullptr;      // [t, width]
  const float* gain = nullptr;      // [width]
  const float* fed_gain = nullptr;  // [width]
  const float* rstd = nullptr;      // [t]
  const float* fed_rstd = nullptr;  // [t]
  EitherRows to_before, to_rows;    // [t, width], or nothing
  EitherRows d_before, d_rows;      // [t, width]
  Extent tokens;
  int width = 0;
};

struct FedNormWeightGradArgs {
  EitherRows dx;                    // [t, width]
  const float* before = nullptr;    // [t, width]
  const float* rows = nullptr;      // [t, width]
  const float* rstd = nullptr;      // [t]
  const float* fed_rstd = nullptr;  // [t]
  float* dgain = nullptr;           // [width]
  float* dfed_gain = nullptr;       // [width]
  float* partial = nullptr;         // [2, RmsNormWeightGradPartials(t), width]
  Extent tokens;
  int width = 0;
};

// Each returns cudaErrorInvalidValue, and launches nothing, if width is not
// within [1, kMaxFedColumns].
cudaError_t FedNorm(const FedNormArgs& args, cudaStream_t stream);
cudaError_t FedNormInputGrad(const FedNormInputGradArgs& args,
                             cudaStream_t stream);
cudaError_t FedNormWeightGrad(const FedNormWeightGradArgs& args,
                              cudaStream_t stream);

void RegisterFedNormKernels(KernelRegistry& kernels);

}  // namespace strata::gpu

#endif  // CUDA_OPS_RESIDUAL_FED_NORM_H_
