// core/ops/norm.h on the device: root-mean-square normalisation and its two
// gradients, which autodiff wants apart.
//
//   x [rows, width]  --RmsNorm-->  y [rows, width], rstd [rows]
//
//   dy, x, rstd, gain  --RmsNormInputGrad-->   dx    [rows, width]
//   dy, x, rstd        --RmsNormWeightGrad-->  dgain [width]
//
// Each only enqueues its work on `stream`, so a graph can capture it. Arrays
// are dense, row-major and in device memory, owned by the caller. Element is
// float or __nv_bfloat16; sums and the gain, which is small, are float. Results
// do not depend on the device: the order of every sum follows from the shape
// alone.
//
// With `count`, rows beyond *count * rows_per_count are left alone.
//
// Best where a row is whole 16-byte vectors (width a multiple of 4 floats or 8
// bfloat16), aligned to 16 bytes, and no longer than 32 KiB. Others are right
// too, but slower.

#ifndef CUDA_OPS_RMS_NORM_H_
#define CUDA_OPS_RMS_NORM_H_

#include <cstdint>

#include "cuda_bf16.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

template <typename Element>
struct RmsNormArgs {
  const Element* x = nullptr;   // [rows, width]
  const float* gain = nullptr;  // [width]
  Element* y = nullptr;         // [rows, width]
  float* rstd = nullptr;        // [rows], 1 / sqrt(mean(x^2) + eps)
  int64_t rows = 0;
  int width = 0;
  float eps = 0;
  const int32_t* count = nullptr;  // [], or null: all rows
  int rows_per_count = 1;
};

template <typename Element>
struct RmsNormInputGradArgs {
  const Element* dy = nullptr;  // [rows, width]
  const Element* x = nullptr;   // [rows, width]
  const float* gain = nullptr;  // [width]
  const float* rstd = nullptr;  // [rows], as RmsNorm left it
  // [rows, width] each, or null: dx is that much more. The second only beside
  // the first, and their sum is rounded before.
  const Element* add[2] = {};
  Element* dx = nullptr;  // [rows, width]
  int64_t rows = 0;
  int width = 0;
  const int32_t* count = nullptr;  // [], or null: all rows
  int rows_per_count = 1;
};

template <typename Element>
struct RmsNormWeightGradArgs {
  const Element* dy = nullptr;  // [rows, width]
  const Element* x = nullptr;   // [rows, width]
  const float* rstd = nullptr;  // [rows], as RmsNorm left it
  float* dgain = nullptr;       // [width]
  float* partial =
      nullptr;  // [RmsNormWeightGradPartials(rows), width]: scratch
  int64_t rows = 0;
  int width = 0;
  const int32_t* count = nullptr;  // [], or null: all rows
  int rows_per_count = 1;
};

// Each returns cudaErrorInvalidValue, and launches nothing, if rows is negative
// or width is not positive.
template <typename Element>
cudaError_t RmsNorm(const RmsNormArgs<Element>& args, cudaStream_t stream);

template <typename Element>
cudaError_t RmsNormInputGrad(const RmsNormInputGradArgs<Element>& args,
                             cudaStream_t stream);

template <typename Element>
cudaError_t RmsNormWeightGrad(const RmsNormWeightGradArgs<Element>& args,
                              cudaStream_t stream);

// Returns the number of rows of RmsNormWeightGradArgs::partial, at most 128.
int RmsNormWeightGradPartials(int64_t rows);

// sum[s] [width] = the sum of the rows of partial[s], in a fixed order.
struct GainPartialsArgs {
  const float* partial = nullptr;  // [1 or 2, num_partials, width]
  int num_partials = 0;
  int width = 0;
  float* sum[2] = {};  // [width] each; the second may be null.
};
cudaError_t SumGainPartials(const GainPartialsArgs& args, cudaStream_t stream);

}  // namespace strata::gpu

#endif  // CUDA_OPS_RMS_NORM_H_
