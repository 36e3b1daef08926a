// Kernels of basic operators as parts of a composite one's.

#ifndef CUDA_OPS_SUB_KERNEL_H_
#define CUDA_OPS_SUB_KERNEL_H_

#include <cstdint>
#include <cstring>
#include <initializer_list>

#include "cuda/runtime/kernel.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

// A matrix of floats in scratch, of as many rows as `rows` says; null data if
// there is no more.
inline Operand TakeMatrix(const KernelContext& ctx, Extent rows,
                          int64_t columns) {
  Operand operand;
  operand.data = ctx.Take<float>(rows.bound * columns);
  operand.rank = 2;
  operand.dims[0] = rows.bound;
  operand.dims[1] = columns;
  operand.count = rows.count;
  return operand;
}

// One integer attribute, and no others: 0.
class OneAttribute : public AttributeReader {
 public:
  OneAttribute() = default;
  OneAttribute(const char* name, int64_t value) : name_(name), value_(value) {}
  int64_t Int(const char* name) const override {
    return name_ != nullptr && std::strcmp(name, name_) == 0 ? value_ : 0;
  }
  double Float(const char* name) const override { return 0; }
  const char* Text(const char* name) const override { return ""; }

 private:
  const char* name_ = nullptr;
  int64_t value_ = 0;
};

// Runs another operator's kernel as part of this one. Scratch is shared.
inline cudaError_t RunPart(const KernelContext& ctx, Kernel kernel,
                           std::initializer_list<Operand> inputs,
                           const Operand& output,
                           const AttributeReader& attrs = OneAttribute()) {
  KernelContext part = ctx;
  part.inputs = inputs.begin();
  part.num_inputs = static_cast<int>(inputs.size());
  part.outputs = &output;
  part.num_outputs = 1;
  part.attrs = &attrs;
  const cudaError_t error = kernel(part);
  ctx.complaint = part.complaint;
  return error;
}

}  // namespace strata::gpu

#endif  // CUDA_OPS_SUB_KERNEL_H_
