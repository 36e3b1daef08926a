// The machine's SGEMM peak: what benchmarks hold their FLOP/s against.

#ifndef CORE_TESTING_SGEMM_PEAK_H_
#define CORE_TESTING_SGEMM_PEAK_H_

namespace strata {

// FLOP/s of one 1024 x 1024 x 1024 product on each core at once, by the BLAS
// that the kernels use; the best of fifteen tries. Takes about a second.
double SgemmPeak();

}  // namespace strata

#endif  // CORE_TESTING_SGEMM_PEAK_H_
