// What a GPU can do at most, measured: the limits that benchmarks print beside
// their figures.

#ifndef CUDA_TESTING_GPU_LIMITS_H_
#define CUDA_TESTING_GPU_LIMITS_H_

namespace strata::gpu {

// Bytes a second of a device-to-device copy of 1 GiB, read and written.
// Measured once a process, as is the other.
double CopyBandwidth();

// FLOP/s of cuBLAS with BF16 operands and an F32 result, square: what products
// on this GPU may hope for. Operands are random, because a GPU is faster, being
// cooler, with zeros.
double BlasBf16Peak();

}  // namespace strata::gpu

#endif  // CUDA_TESTING_GPU_LIMITS_H_
