// Picks OpenBLAS's kernels by what the processor can do.
//
// OpenBLAS picks them by the processor's model number, and takes its slowest
// (SSE3) on a model that it does not know: 0.3.21 does so on every server
// processor that came after it. It reads OPENBLAS_CORETYPE first, in a
// constructor of its own, so this one runs before that. A value that the user
// set stays.

#include <cstdlib>

namespace {

const char* CoreType() {
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl")) {
    return __builtin_cpu_supports("avx512bf16") ? "Cooperlake" : "SkylakeX";
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    return __builtin_cpu_is("amd") ? "Zen" : "Haswell";
  }
  return nullptr;  // OpenBLAS knows all that is older.
}

// 101 is the first priority that programs may use; OpenBLAS has none.
__attribute__((constructor(101))) void PickOpenBlasCore() {
  const char* const core = CoreType();
  if (core != nullptr) setenv("OPENBLAS_CORETYPE", core, /*overwrite=*/0);
}

}  // namespace
