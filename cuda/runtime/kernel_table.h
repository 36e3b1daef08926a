// The kernels of a backend by the name of their operator.

#ifndef CUDA_RUNTIME_KERNEL_TABLE_H_
#define CUDA_RUNTIME_KERNEL_TABLE_H_

#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "core/base/check.h"
#include "cuda/runtime/kernel.h"

namespace strata::gpu {

class KernelTable : public KernelRegistry {
 public:
  void Register(const char* op, Kernel run, Kernel prepare = nullptr,
                bool alone = false) override {
    CHECK(kernels_.emplace(op, OpKernels{run, prepare, alone}).second)
        << op << " has a kernel already";
  }

  // Nulls if there is none.
  OpKernels Find(absl::string_view op) const {
    const auto it = kernels_.find(op);
    return it != kernels_.end() ? it->second : OpKernels();
  }

 private:
  absl::flat_hash_map<std::string, OpKernels> kernels_;
};

}  // namespace strata::gpu

#endif  // CUDA_RUNTIME_KERNEL_TABLE_H_
