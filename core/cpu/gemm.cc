#include "core/cpu/gemm.h"

#include <vector>

// OpenBLAS's own, which no header of it declares.
extern "C" {
void* blas_memory_alloc(int position);
void blas_memory_free(void* buffer);
}

namespace strata {

void ReserveGemmBuffers(int num_threads) {
  std::vector<void*> buffers(num_threads);
  for (void*& buffer : buffers) buffer = blas_memory_alloc(0);
  for (void* const buffer : buffers) blas_memory_free(buffer);
}

}  // namespace strata
