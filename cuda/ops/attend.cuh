// Rows of queries that attend to a stretch of keys, by one block: what causal
// and cached attention are made of.
//
//   a key a lane          score[q] = q . k[lane]           32 keys at a time
//   a column a lane       o[q] += p[q][key] * v[key]       p from its lane
//
// Keys and values of 32 tokens lie in shared memory for all rows of the block;
// the softmax runs along (its maximum and sum are corrected tile by tile), so
// that scores are never in memory.

#ifndef CUDA_OPS_ATTEND_CUH_
#define CUDA_OPS_ATTEND_CUH_

#include <cstdint>

#include "cuda/ops/device.cuh"

namespace strata::gpu {

constexpr int kAttendWarps = 4;
constexpr int kAttendThreads = kAttendWarps * kWarp;
constexpr int kKeys = 32;  // Of a tile: one a lane.

// Columns of a head, and how they lie in shared memory.
struct HeadSizes {
  int key_dim = 0, value_dim = 0;
  float scale = 1;

  __host__ __device__ int padded_key() const { return (key_dim + 3) / 4 * 4; }
  __host__ __device__ int padded_value() const {
    return (value_dim + 3) / 4 * 4;
  }
  // Odd, so that 32 lanes that each read a row of their own hit 32 banks.
  __host__ __device__ int key_pitch() const { return padded_key() + 1; }
  __host__ __device__ int value_pitch() const { return padded_value() + 1; }
};

// Rows [0, count) of `row(i)` [dim], each to `to + i * pitch`; zeros up to
// `padded` columns, and for rows that are null. A warp a row. A row is a
// pointer to floats, or what else has elements and may be null.
template <typename Row>
__device__ __forceinline__ void LoadRows(int count, int dim, int padded,
                                         int pitch, Row row, float* to) {
  for (int i = threadIdx.x / kWarp; i < count; i += kAttendWarps) {
    const auto from = row(i);
    for (int c = Lane(); c < padded; c += kWarp) {
      to[i * pitch + c] = from != nullptr && c < dim ? from[c] : 0.f;
    }
  }
}

// sum[q] += row q of `rows` . line, over `padded` columns. Rows stand `padded`
// apart and are read by all lanes alike; `line` is the lane's own.
template <int kQ>
__device__ __forceinline__ void Dots(const float* rows, const float* line,
                                     int padded, float (&sum)[kQ]) {
  for (int c = 0; c < padded; c += 4) {
    const float x[4] = {line[c], line[c + 1], line[c + 2], line[c + 3]};
#pragma unroll
    for (int q = 0; q < kQ; ++q) {
      const float4 y = *reinterpret_cast<const float4*>(rows + q * padded + c);
      sum[q] = fmaf(y.x, x[0], sum[q]);
      sum[q] = fmaf(y.y, x[1], sum[q]);
      sum[q] = fmaf(y.z, x[2], sum[q]);
      sum[q] = fmaf(y.w, x[3], sum[q]);
    }
  }
}

// sum[q][d] += weight[q] of lane j * lines[j][32 d + lane] over the 32 lines.
template <int kQ, int kD>
__device__ __forceinline__ void AddLines(const float (&weight)[kQ],
                                         const float* lines, int pitch, int dim,
                                         float (&sum)[kQ][kD]) {
#pragma unroll 4
  for (int j = 0; j < kKeys; ++j) {
    float w[kQ];
#pragma unroll
    for (int q = 0; q < kQ; ++q) {
      w[q] = __shfl_sync(kWholeWarp, weight[q], j);
    }
#pragma unroll
    for (int d = 0; d < kD; ++d) {
      const int c = d * kWarp + Lane();
      const float x = c < dim ? lines[j * pitch + c] : 0.f;
#pragma unroll
      for (int q = 0; q < kQ; ++q) sum[q][d] = fmaf(w[q], x, sum[q][d]);
    }
  }
}

// The rows of one warp, and what has come of them.
template <int kQ, int kD>
struct Attending {
  int64_t first[kQ], end[kQ];  // Keys that each sees: [first, end).
  float max[kQ], sum[kQ];      // Of its softmax so far.
  float o[kQ][kD];             // Not yet divided by sum.

  __device__ void Clear() {
#pragma unroll
    for (int q = 0; q < kQ; ++q) {
      max[q] = -INFINITY;
      sum[q] = 0;
#pragma unroll
      for (int d = 0; d < kD; ++d) o[q][d] = 0;
    }
  }
};

// What a score is worth that is `below` <= 0 of its row's maximum.
struct ExpWeight {
  __device__ __forceinline__ float operator()(float below) const {
    return expf(below);
  }
};

// Attends to keys [begin, end). `q` [rows of the block, padded_key] is in
// shared memory; so are `k` and, unless values are the keys' first columns, `v`
// for a tile each. key(j) and value(j) are rows as LoadRows() takes them.
template <int kQ, int kD, typename Key, typename Value, typename Weight>
__device__ void Attend(const HeadSizes& sizes, int64_t begin, int64_t end,
                       Key key, Value value, const Weight& weight,
                       const float* q, float* k, float* v,
                       Attending<kQ, kD>& rows) {
  const int warp = threadIdx.x / kWarp;
  const float* const lines = v != nullptr ? v : k;
  const int pitch = v != nullptr ? sizes.value_pitch() : sizes.key_pitch();
  for (int64_t tile = begin; tile < end; tile += kKeys) {
    const auto at = [&](auto row) {
      using Line = decltype(row(tile));
      return [=](int j) -> Line {
        return tile + j < end ? row(tile + j) : Line();
      };
    };
    __syncthreads();
    LoadRows(kKeys, sizes.key_dim, sizes.padded_key(), sizes.key_pitch(),
             at(key), k);
    if (v != nullptr) {
      LoadRows(kKeys, sizes.value_dim, sizes.padded_value(),
               sizes.value_pitch(), at(value), v);
    }
    __syncthreads();
    float p[kQ] = {};
    Dots(q + warp * kQ * sizes.padded_key(), k + Lane() * sizes.key_pitch(),
         sizes.padded_key(), p);
    const int64_t j = tile + Lane();
#pragma unroll
    for (int r = 0; r < kQ; ++r) {
      const bool seen = j >= rows.first[r] && j < rows.end[r];
      const float score = seen ? p[r] * sizes.scale : -INFINITY;
      const float max = fmaxf(rows.max[r], WarpMax(score));
      // Nothing seen yet: there is nothing to correct.
      const float keep = max > -INFINITY ? expf(rows.max[r] - max) : 1.f;
      p[r] = seen ? weight(score - max) : 0.f;
      rows.sum[r] = rows.sum[r] * keep + WarpSum(p[r]);
      rows.max[r] = max;
#pragma unroll
      for (int d = 0; d < kD; ++d) rows.o[r][d] *= keep;
    }
    AddLines(p, lines, pitch, sizes.value_dim, rows.o);
  }
}

// Calls launch(integral constant) with the least of 1, 2, 4, 8 (and 16) columns
// a lane that hold `dim`; cudaErrorNotSupported if none does.
template <int n>
struct ColumnsPerLane {
  static constexpr int value = n;
};
template <int kMax, typename Launch>
cudaError_t WithColumns(int64_t dim, Launch launch) {
  if (dim <= 1 * kWarp) return launch(ColumnsPerLane<1>());
  if (dim <= 2 * kWarp) return launch(ColumnsPerLane<2>());
  if (dim <= 4 * kWarp) return launch(ColumnsPerLane<4>());
  if (dim <= 8 * kWarp) return launch(ColumnsPerLane<8>());
  if constexpr (kMax >= 16) {
    if (dim <= 16 * kWarp) return launch(ColumnsPerLane<16>());
  }
  return cudaErrorNotSupported;
}

// Lets `kernel` have `num_bytes` of shared memory.
template <typename Fn>
cudaError_t AllowShared(Fn* kernel, size_t num_bytes) {
  if (num_bytes <= (48 << 10)) return cudaSuccess;
  return cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                              cudaFuncAttributeMaxDynamicSharedMemorySize,
                              static_cast<int>(num_bytes));
}

}  // namespace strata::gpu

#endif  // CUDA_OPS_ATTEND_CUH_
