// How kernels that go row by row or element by element cut their work.

#ifndef CORE_CPU_ROW_CHUNKS_H_
#define CORE_CPU_ROW_CHUNKS_H_

#include <algorithm>
#include <cstdint>

#include "core/base/thread_pool.h"

namespace strata {

// Elements in a chunk: worth some microseconds, and within a core's cache.
inline constexpr int64_t kChunkElements = 16384;

// Calls fn(begin, end) for chunks of rows that together are [0, rows). Chunks
// depend on the shape alone.
template <typename Fn>
void ForRowChunks(ThreadPool& pool, int64_t rows, int64_t columns, Fn fn) {
  const int64_t chunk =
      std::max<int64_t>(1, kChunkElements / std::max<int64_t>(1, columns));
  pool.ParallelFor((rows + chunk - 1) / chunk, [&](int64_t index) {
    fn(index * chunk, std::min(rows, (index + 1) * chunk));
  });
}

// The same for the elements of a flat array.
template <typename Fn>
void ForElementChunks(ThreadPool& pool, int64_t n, Fn fn) {
  ForRowChunks(pool, n, /*columns=*/1, fn);
}

// Calls fn(row, worker) for each row, in the same chunks; `worker` indexes
// scratch.
template <typename Fn>
void ForEachRow(ThreadPool& pool, int64_t rows, int64_t columns, Fn fn) {
  const int64_t chunk =
      std::max<int64_t>(1, kChunkElements / std::max<int64_t>(1, columns));
  pool.ParallelFor((rows + chunk - 1) / chunk, [&](int64_t i, int worker) {
    const int64_t end = std::min(rows, (i + 1) * chunk);
    for (int64_t row = i * chunk; row < end; ++row) fn(row, worker);
  });
}

}  // namespace strata

#endif  // CORE_CPU_ROW_CHUNKS_H_
