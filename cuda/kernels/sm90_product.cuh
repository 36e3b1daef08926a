// Products of a warpgroup in Hopper's tensor cores (wgmma), BF16 with F32 sums:
//
//   d [64, n] (+)= a [64, 16] * b [16, n],   n of 64, 96, 128 and 256
//
// b lies in shared memory, a there or in registers, d in registers. In shared
// memory an operand is a tile of rows of 64 BF16, swizzled by 128 bytes as the
// copy engine leaves it (sm90.cuh), in one of two orders:
//
//   kInner   a row holds 64 of the 16s that are summed over, an outer index a
//            row; +32 bytes is the next 16
//   kOuter   a row holds 64 outer indices (rows of a, columns of b), an index
//            that is summed over a row; +2048 bytes is the next 16, and the
//            next 64 outer indices are a tile of their own
//
// Thread t of the warpgroup holds, of d, rows 16 (t / 32) + t % 32 / 4 and
// eight below, columns 8 g + t % 4 * 2 and the next: d[4 g], d[4 g + 1] of the
// one row, d[4 g + 2], d[4 g + 3] of the other. PTX ISA 9.0, section 9.7.15.

#ifndef CUDA_KERNELS_SM90_PRODUCT_CUH_
#define CUDA_KERNELS_SM90_PRODUCT_CUH_

#include <cstdint>

#include "cuda/kernels/sm90.cuh"

namespace strata::gpu {

// How an operand lies in shared memory; the value is wgmma's "transposed".
enum OperandOrder : int { kInner = 0, kOuter = 1 };

#if STRATA_SM90A

// Products wait for registers and shared memory that were written before this.
__device__ __forceinline__ void BeginProducts() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void EndProducts() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// Until at most `kPending` groups, the latest, are not done.
template <int kPending>
__device__ __forceinline__ void WaitForProducts() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// The descriptor of an operand at `tile`. `outer_stride` bytes lie between
// tiles of 64 outer indices (of kOuter alone).
__device__ __forceinline__ uint64_t Describe(const void* tile,
                                             int outer_stride = 16) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
  return kSwizzle128 | uint64_t{kSwizzleBytes >> 4} << 32 |
         static_cast<uint64_t>(outer_stride >> 4) << 16 |
         (SharedAddress(tile) & 0x3ffff) >> 4;
}
// The same `bytes` on.
__device__ __forceinline__ uint64_t Advance(uint64_t descriptor, int bytes) {
  return descriptor + static_cast<uint64_t>(bytes >> 4);
}
// What the next 16 summed indices are on.
template <OperandOrder kOrder>
constexpr int kStep16 = kOrder == kInner ? 32 : 2048;

// The registers of d as an asm statement names them and binds them.
#define STRATA_NAMES_32                                                    \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, " \
  "%30, %31"
#define STRATA_NAMES_48                                                 \
  STRATA_NAMES_32                                                       \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, " \
  "%45, %46, %47"
#define STRATA_NAMES_64                                                    \
  STRATA_NAMES_32                                                          \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, "    \
  "%45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, " \
  "%59, %60, %61, %62, %63"
#define STRATA_NAMES_128                                                   \
  STRATA_NAMES_64                                                          \
  ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, "    \
  "%77, %78, %79, %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, " \
  "%91, %92, %93, %94, %95, %96, %97, %98, %99, %100, %101, %102, %103, "  \
  "%104, %105, %106, %107, %108, %109, %110, %111, %112, %113, %114, "     \
  "%115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, "     \
  "%126, %127"
#define STRATA_SUMS_4(i) \
  "+f"(d[i]), "+f"(d[(i) + 1]), "+f"(d[(i) + 2]), "+f"(d[(i) + 3])
#define STRATA_SUMS_8(i) STRATA_SUMS_4(i), STRATA_SUMS_4((i) + 4)
#define STRATA_SUMS_16(i) STRATA_SUMS_8(i), STRATA_SUMS_8((i) + 8)
#define STRATA_SUMS_32(i) STRATA_SUMS_16(i), STRATA_SUMS_16((i) + 16)
#define STRATA_SUMS_48(i) STRATA_SUMS_32(i), STRATA_SUMS_16((i) + 32)
#define STRATA_SUMS_64(i) STRATA_SUMS_32(i), STRATA_SUMS_32((i) + 32)
#define STRATA_SUMS_128(i) STRATA_SUMS_64(i), STRATA_SUMS_64((i) + 64)

// d = a * b, or d += a * b if `add`. One of these for each n.

template <int kTransA, int kTransB>
__device__ __forceinline__ void Multiply(float (&d)[32], uint64_t a, uint64_t b,
                                         int add) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" STRATA_NAMES_32
      "}, %32, %33, p, 1, 1, %35, %36;\n}\n"
      : STRATA_SUMS_32(0)
      : "l"(a), "l"(b), "r"(add), "n"(kTransA), "n"(kTransB));
}

template <int kTransA, int kTransB>
__device__ __forceinline__ void Multiply(float (&d)[64], uint64_t a, uint64_t b,
                                         int add) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" STRATA_NAMES_64
      "}, %64, %65, p, 1, 1, %67, %68;\n}\n"
      : STRATA_SUMS_64(0)
      : "l"(a), "l"(b), "r"(add), "n"(kTransA), "n"(kTransB));
}

template <int kTransA, int kTransB>
__device__ __forceinline__ void Multiply(float (&d)[128], uint64_t a,
                                         uint64_t b, int add) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %130, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {" STRATA_NAMES_128
      "}, %128, %129, p, 1, 1, %131, %132;\n}\n"
      : STRATA_SUMS_128(0)
      : "l"(a), "l"(b), "r"(add), "n"(kTransA), "n"(kTransB));
}

// With a in registers: rows and columns lie in it as in d, two BF16 a register.

template <int kTransB>
__device__ __forceinline__ void Multiply(float (&d)[32], const uint32_t (&a)[4],
                                         uint64_t b, int add) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" STRATA_NAMES_32
      "}, {%32, %33, %34, %35}, %36, p, 1, 1, %38;\n}\n"
      : STRATA_SUMS_32(0)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add),
        "n"(kTransB));
}

template <int kTransB>
__device__ __forceinline__ void Multiply(float (&d)[48], const uint32_t (&a)[4],
                                         uint64_t b, int add) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %53, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n96k16.f32.bf16.bf16 {" STRATA_NAMES_48
      "}, {%48, %49, %50, %51}, %52, p, 1, 1, %54;\n}\n"
      : STRATA_SUMS_48(0)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add),
        "n"(kTransB));
}

template <int kTransB>
__device__ __forceinline__ void Multiply(float (&d)[64], const uint32_t (&a)[4],
                                         uint64_t b, int add) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" STRATA_NAMES_64
      "}, {%64, %65, %66, %67}, %68, p, 1, 1, %70;\n}\n"
      : STRATA_SUMS_64(0)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add),
        "n"(kTransB));
}

template <int kTransB>
__device__ __forceinline__ void Multiply(float (&d)[128],
                                         const uint32_t (&a)[4], uint64_t b,
                                         int add) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %133, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {" STRATA_NAMES_128
      "}, {%128, %129, %130, %131}, %132, p, 1, 1, %134;\n}\n"
      : STRATA_SUMS_128(0)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add),
        "n"(kTransB));
}

#endif  // STRATA_SM90A

}  // namespace strata::gpu

#endif  // CUDA_KERNELS_SM90_PRODUCT_CUH_
