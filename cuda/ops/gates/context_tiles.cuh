// What ExpertContext and its gradient are made of: one block's products of
// small matrices, all of which lie in its shared memory, or in device memory
// where they are too large for that.
//
//   phase    products that do not read each other's results
//   tile     4 x 4 elements of one of them, a thread's; threads take the tiles
//            of a phase in turn, and a barrier ends it
//
// Extents are rounded up to 4 and what is added is zero, and stays zero in all
// products. A row is an odd number of 16 bytes, so that neighbouring rows begin
// in other banks.

#ifndef CUDA_OPS_GATES_CONTEXT_TILES_CUH_
#define CUDA_OPS_GATES_CONTEXT_TILES_CUH_

#include <algorithm>
#include <cstdint>

#include "cuda/ops/decode/copy_async.cuh"
#include "cuda/ops/device.cuh"
#include "cuda_bf16.h"

namespace strata::gpu {

// Of a block: the widest phases are some 350 tiles for 48 experts and r = 32.
constexpr int kContextThreads = 384;
// What a block of sm_90 may have of shared memory.
constexpr int64_t kMaxSharedBytes = 227 << 10;

// Inputs of core/ops/fused_gate.h.
constexpr int kContextInputs = 8;

// Of one gate; the embedding is F32, the others F32 or BF16.
struct ContextInputs {
  int experts = 0, r = 0;
  const void* at[kContextInputs] = {};
  unsigned bf16 = 0;  // A bit for each.
};

// Inputs [first, first + 8) of a call.
inline ContextInputs ReadContextInputs(const KernelContext& ctx, int first) {
  ContextInputs in;
  in.experts = static_cast<int>(ctx.in(first).dim(0));
  in.r = static_cast<int>(ctx.in(first).dim(1));
  for (int i = 0; i < kContextInputs; ++i) {
    in.at[i] = ctx.in(first + i).data;
    in.bf16 |= ctx.in(first + i).element_size == 2 ? 1u << i : 0u;
  }
  return in;
}

__host__ __device__ __forceinline__ int RoundUp4(int n) {
  return (n + 3) / 4 * 4;
}
// Of a row of n elements.
__host__ __device__ __forceinline__ int Stride(int n) {
  return ((n + 3) / 4 | 1) * 4;
}

// Floats of `of_experts` matrices [E, r], `weights` [r, r] and `shares` [E, E].
inline int64_t ContextFloats(const ContextInputs& in, int of_experts,
                             int weights, int shares) {
  const int64_t n = RoundUp4(in.experts), r = RoundUp4(in.r);
  return (of_experts * n + weights * r) * Stride(in.r) +
         shares * n * Stride(in.experts);
}

struct Matrix {
  float* at = nullptr;
  int stride = 0;
};

// The matrices of a block, one behind the other.
struct Room {
  float* next = nullptr;

  __device__ __forceinline__ Matrix Take(int rows, int columns) {
    const Matrix m = {next, Stride(columns)};
    next += RoundUp4(rows) * m.stride;
    return m;
  }
};

// A thread's places in matrices of as many columns, 4 elements each.
class Places {
 public:
  __device__ __forceinline__ explicit Places(int columns)
      : columns_(columns), vectors_(RoundUp4(columns) / 4) {
    const int thread = static_cast<int>(threadIdx.x);
    row_ = thread / vectors_;
    vector_ = thread % vectors_;
    rows_on_ = kContextThreads / vectors_;
    vectors_on_ = kContextThreads % vectors_;
  }

  // Begins to copy [rows, columns] to `m`, or zeros where `from` is null;
  // EndLoads() shows it to all.
  template <bool kShared>
  __device__ __forceinline__ void Load(const void* from, bool bf16, int rows,
                                       const Matrix& m) const {
    ForAll(rows, [&](int row, int column) {
      float* const to = m.at + row * m.stride + column;
      const int64_t i = int64_t{row} * columns_ + column;
      const auto* const wide = static_cast<const float*>(from);
      if (kShared && from != nullptr && !bf16 && columns_ % 4 == 0 &&
          reinterpret_cast<uintptr_t>(from) % 16 == 0) {
        CopyAsync16(to, row < rows ? wide + i : wide, row < rows);
        return;
      }
#pragma unroll
      for (int x = 0; x < 4; ++x) {
        const bool there =
            from != nullptr && row < rows && column + x < columns_;
        to[x] = !there ? 0.f
                : bf16 ? __bfloat162float(
                             static_cast<const __nv_bfloat16*>(from)[i + x])
                       : wide[i + x];
      }
    });
  }

 private:
  // fn(row, first column) for what is this thread's of RoundUp4(rows).
  template <typename Fn>
  __device__ __forceinline__ void ForAll(int rows, Fn fn) const {
    int row = row_, vector = vector_;
    while (row < RoundUp4(rows)) {
      fn(row, 4 * vector);
      row += rows_on_;
      vector += vectors_on_;
      if (vector >= vectors_) {
        vector -= vectors_;
        ++row;
      }
    }
  }

  int columns_, vectors_, row_, vector_, rows_on_, vectors_on_;
};

__device__ __forceinline__ void EndLoads() {
  WaitForCopies16();
  __syncthreads();
}

// Whose tile is next: products of a phase go on where the one before ended.
struct Turn {
  int next = 0;

  __device__ __forceinline__ int First(int tiles) {
    int first = static_cast<int>(threadIdx.x) - next;
    if (first < 0) first += kContextThreads;
    next = (next + tiles) % kContextThreads;
    return first;
  }
  __device__ __forceinline__ void EndPhase() {
    next = 0;
    __syncthreads();
  }
};

enum class Of { kAsIs, kTransposed };

__device__ __forceinline__ void ToArray(const float* from, float (&to)[4]) {
  const float4 v = *reinterpret_cast<const float4*>(from);
  to[0] = v.x;
  to[1] = v.y;
  to[2] = v.z;
  to[3] = v.w;
}

// Rows [row, row + 4) of a product, and as many columns: where the right factor
// is transposed, every column_step-th from `column` on, so that neighbouring
// threads read neighbouring rows of it.
struct Tile {
  int row = 0, column = 0, column_step = 1;
  float sum[4][4] = {};

  // sum += op(a) op(b), over `depth` elements.
  template <Of kA, Of kB>
  __device__ __forceinline__ void Add(const Matrix& a, const Matrix& b,
                                      int depth) {
#pragma unroll 2
    for (int c = 0; c < RoundUp4(depth); c += 4) {
      float left[4][4], right[4][4];
#pragma unroll
      for (int q = 0; q < 4; ++q) {
        ToArray(kA == Of::kAsIs ? a.at + (row + q) * a.stride + c
                                : a.at + (c + q) * a.stride + row,
                left[q]);
        ToArray(kB == Of::kAsIs
                    ? b.at + (c + q) * b.stride + column
                    : b.at + (column + q * column_step) * b.stride + c,
                right[q]);
      }
#pragma unroll
      for (int q = 0; q < 4; ++q) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            sum[i][j] =
                fmaf(kA == Of::kAsIs ? left[i][q] : left[q][i],
                     kB == Of::kAsIs ? right[q][j] : right[j][q], sum[i][j]);
          }
        }
      }
    }
  }

  // fn(row, column, element) for all.
  template <typename Fn>
  __device__ __forceinline__ void ForEach(Fn fn) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        fn(row + i, column + j * column_step, sum[i][j]);
      }
    }
  }

  __device__ __forceinline__ void Store(const Matrix& m) const {
    ForEach([&](int i, int j, float x) { m.at[i * m.stride + j] = x; });
  }
  __device__ __forceinline__ void StoreSum(const Matrix& to_add,
                                           const Matrix& m) const {
    ForEach([&](int i, int j, float x) {
      m.at[i * m.stride + j] = to_add.at[i * to_add.stride + j] + x;
    });
  }
  // To a dense matrix in device memory, what is there of it.
  __device__ __forceinline__ void Store(float* out, int rows,
                                        int columns) const {
    ForEach([&](int i, int j, float x) {
      if (i < rows && j < columns) out[int64_t{i} * columns + j] = x;
    });
  }
};

// Calls fn(tile) for the tiles of a product [rows, columns] that are this
// thread's; kB as Tile::Add()'s.
template <Of kB, typename Fn>
__device__ __forceinline__ void ForTiles(Turn& turn, int rows, int columns,
                                         Fn fn) {
  const int across = RoundUp4(columns) / 4;
  const int tiles = RoundUp4(rows) / 4 * across;
  for (int t = turn.First(tiles); t < tiles; t += kContextThreads) {
    Tile tile;
    tile.row = t / across * 4;
    tile.column = t % across;
    if (kB == Of::kTransposed) {
      tile.column_step = across;
    } else {
      tile.column *= 4;
    }
    fn(tile);
  }
}

// m = op(a) op(b) [rows, columns].
template <Of kA, Of kB>
__device__ __forceinline__ void Product(Turn& turn, const Matrix& a,
                                        const Matrix& b, int rows, int columns,
                                        int depth, const Matrix& m) {
  ForTiles<kB>(turn, rows, columns, [&](Tile& tile) {
    tile.Add<kA, kB>(a, b, depth);
    tile.Store(m);
  });
}

// Rows of y [n, n] become shares, a warp a row; what is added stays zero.
__device__ __forceinline__ void SoftmaxRows(int n, float scale,
                                            const Matrix& y) {
  for (int i = static_cast<int>(threadIdx.x) / kWarp; i < RoundUp4(n);
       i += kContextThreads / kWarp) {
    float* const row = y.at + i * y.stride;
    float largest = -INFINITY;
    for (int e = Lane(); e < n; e += kWarp) {
      row[e] *= scale;
      largest = fmaxf(largest, row[e]);
    }
    largest = WarpMax(largest);
    float sum = 0;
    for (int e = Lane(); e < n; e += kWarp) {
      row[e] = expf(row[e] - largest);
      sum += row[e];
    }
    const float inverse = i < n ? 1.f / WarpSum(sum) : 0.f;
    for (int e = Lane(); e < RoundUp4(n); e += kWarp) {
      row[e] = e < n ? row[e] * inverse : 0.f;
    }
  }
}

// What the gates of a launch have of memory of their own.
struct ContextMemory {
  int shared_bytes = 0;      // Of a block, or 0:
  float* scratch = nullptr;  // of the launch's only gate.
};

// The gates of a launch, by value. A kernel's arguments may have 32 kB.
template <typename G, int kMost>
struct GateTable {
  static constexpr int kMaxGates = kMost;
  using Gate = G;

  ContextMemory memory;
  float scale = 1;
  int count = 0;
  Gate gate[kMost];
};

// Runs a call's gates, read(g) for g in [0, gates), each of floats(gate) floats
// of memory: by `in_shared` as many a launch as a table holds, or, where one of
// them is too large for shared memory, by `in_device` one after the other.
template <typename Table, typename Read, typename Floats>
cudaError_t RunGates(const KernelContext& ctx, int gates, Read read,
                     Floats floats, void (*in_shared)(Table),
                     void (*in_device)(Table)) {
  Table table;
  static_assert(sizeof(Table) < 32764, "more than a kernel's arguments");
  table.scale = ctx.Float("scale");
  int64_t most_floats = 0;
  for (int g = 0; g < gates; ++g) {
    most_floats = std::max(most_floats, floats(read(g)));
  }
  const bool shared =
      most_floats * static_cast<int64_t>(sizeof(float)) <= kMaxSharedBytes;
  if (shared) {
    table.memory.shared_bytes = static_cast<int>(most_floats * sizeof(float));
    // All of it each time: a captured launch finds what the last call allowed.
    const cudaError_t allowed = cudaFuncSetAttribute(
        reinterpret_cast<const void*>(in_shared),
        cudaFuncAttributeMaxDynamicSharedMemorySize, kMaxSharedBytes);
    if (allowed != cudaSuccess) return allowed;
  } else {
    // Of one: what a gate takes by itself has to do for all of a call.
    table.memory.scratch = ctx.Take<float>(most_floats);
    if (table.memory.scratch == nullptr) return cudaErrorMemoryAllocation;
  }
  const int most = shared ? Table::kMaxGates : 1;
  for (int first = 0; first < gates; first += most) {
    table.count = std::min(most, gates - first);
    for (int g = 0; g < table.count; ++g) table.gate[g] = read(first + g);
    (shared ? in_shared
            : in_device)<<<table.count, kContextThreads,
                           table.memory.shared_bytes, ctx.stream>>>(table);
    if (const cudaError_t error = cudaGetLastError(); error) return error;
  }
  return cudaSuccess;
}

}  // namespace strata::gpu

#endif  // CUDA_OPS_GATES_CONTEXT_TILES_CUH_
