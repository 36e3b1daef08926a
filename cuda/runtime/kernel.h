// A CUDA kernel's view of a node, free of Abseil so that .cu files include it.
//
//   cudaError_t RunScale(const KernelContext& ctx) {
//     ScaleKernel<<<ctx.GridFor(n), kThreads, 0, ctx.stream()>>>(...);
//     return cudaGetLastError();
//   }
//   void RegisterElementwiseKernels(KernelRegistry& kernels) {
//     kernels.Register("Scale", RunScale);
//   }

#ifndef CUDA_RUNTIME_KERNEL_H_
#define CUDA_RUNTIME_KERNEL_H_

#include <cstddef>
#include <cstdint>

#include "cublas_v2.h"
#include "cuda/runtime/fault.h"
#include "cuda_runtime_api.h"

namespace strata {
class Mesh;  // core/parallel/mesh.h
}  // namespace strata

namespace strata::gpu {

struct WaitClock;  // cuda/runtime/wait_clock.h

// How matrix products treat their F32 operands; sums are F32 always.
enum class Precision {
  kF32,   // As they are: the reference.
  kTf32,  // Rounded to 10 bits of mantissa.
  kBf16,  // Rounded to BF16.
};

// How many rows there are: a bound that the host knows, and a count in device
// memory that may be less.
struct Extent {
  int64_t bound = 0;
  const int32_t* count = nullptr;  // Null: exactly `bound`.

#ifdef __CUDACC__
  __device__ __forceinline__ int64_t Get() const {
    return count != nullptr ? min(int64_t{*count}, bound) : bound;
  }
#endif
};

// A tensor in device memory, row-major; only the first extent may be ragged.
struct Operand {
  void* data = nullptr;  // Null: an optional input that is absent.
  int element_size = 4;  // Bytes.
  bool is_integer = false;
  int rank = 0;
  int64_t dims[4] = {1, 1, 1, 1};  // At their bounds.
  const int32_t* count = nullptr;  // Of dims[0]; null where it is static.

  template <typename T>
  T* as() const {
    return static_cast<T*>(data);
  }
  int64_t dim(int axis) const { return dims[axis]; }
  Extent rows() const { return {dims[0], count}; }
  // Elements of a row; 1 for a vector.
  int64_t columns() const { return dims[1] * dims[2] * dims[3]; }
  int64_t max_elements() const { return dims[0] * columns(); }
};

// Memory of kernels. Grows outside of graph capture only; null if there is no
// more.
class Scratch {
 public:
  virtual ~Scratch() = default;
  // Lasts until the next operator.
  virtual void* TakeBytes(size_t num_bytes) = 0;
  // Lasts as long as the program, for this node alone: the same memory at each
  // call of that name, zeroed at the first.
  virtual void* KeepBytes(const char* name, size_t num_bytes) = 0;
  // What the node that makes input number `input` keeps under that name; null
  // if nothing.
  virtual void* KeptByMaker(int input, const char* name) const = 0;
};

class AttributeReader {
 public:
  virtual ~AttributeReader() = default;
  virtual int64_t Int(const char* name) const = 0;
  virtual double Float(const char* name) const = 0;
  virtual const char* Text(const char* name) const = 0;
};

// Everything a kernel may touch. It enqueues on stream() and never waits.
struct KernelContext {
  const Operand* inputs = nullptr;
  int num_inputs = 0;
  const Operand* outputs = nullptr;
  int num_outputs = 0;
  const AttributeReader* attrs = nullptr;
  Scratch* scratch = nullptr;
  cudaStream_t stream = nullptr;
  cublasHandle_t blas = nullptr;  // Enqueues on `stream`.
  Precision precision = Precision::kF32;
  FaultSink fault;             // Where to say that data is bad.
  const Mesh* mesh = nullptr;  // The ranks that run this program, if several.
  // On a lane (side_lanes.h): the program's stream, which goes on meanwhile.
  cudaStream_t beside = nullptr;
  // Where to count how long other ranks are waited for; null where that holds
  // up no other operator.
  WaitClock* waits = nullptr;
  // What went wrong where cudaError_t cannot say; lives at least until the next
  // kernel is called.
  mutable const char* complaint = nullptr;

  const Operand& in(int i) const { return inputs[i]; }
  const Operand& out(int i) const { return outputs[i]; }
  bool has(int i) const { return i < num_inputs && inputs[i].data != nullptr; }
  int64_t Int(const char* name) const { return attrs->Int(name); }
  float Float(const char* name) const {
    return static_cast<float>(attrs->Float(name));
  }
  double Double(const char* name) const { return attrs->Float(name); }

  // Uninitialised room for `n` elements, aligned to 256 bytes; null if there is
  // no more: return cudaErrorMemoryAllocation then.
  template <typename T>
  T* Take(int64_t n) const {
    return static_cast<T*>(scratch->TakeBytes(n * sizeof(T)));
  }
  // `n` elements that are still there in the next run, aligned likewise.
  template <typename T>
  T* Keep(const char* name, int64_t n) const {
    return static_cast<T*>(scratch->KeepBytes(name, n * sizeof(T)));
  }
  template <typename T>
  const T* KeptByMaker(int input, const char* name) const {
    return static_cast<const T*>(scratch->KeptByMaker(input, name));
  }
  // For shapes that a kernel cannot do.
  cudaError_t Refuse(const char* why) const {
    complaint = why;
    return cudaErrorNotSupported;
  }
};

using Kernel = cudaError_t (*)(const KernelContext& ctx);

// What runs an operator. `prepare`, if there is one, makes what is a function
// of parameters alone and keeps it (KernelContext::Keep) where `run` finds it;
// it reads no other inputs, and runs before `run` whenever parameters may have
// changed. `alone`: its blocks may wait for each other and want all of the GPU
// for that, so that no other program with such a kernel runs beside this one.
struct OpKernels {
  Kernel run = nullptr;
  Kernel prepare = nullptr;
  bool alone = false;
};

// Which kernel runs which operator. All are for F32 (beside I32 and U8
// operands); weights of products and embeddings may be BF16.
class KernelRegistry {
 public:
  virtual ~KernelRegistry() = default;
  virtual void Register(const char* op, Kernel run, Kernel prepare = nullptr,
                        bool alone = false) = 0;
};

}  // namespace strata::gpu

#endif  // CUDA_RUNTIME_KERNEL_H_
