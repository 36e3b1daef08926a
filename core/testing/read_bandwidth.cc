#include "core/testing/read_bandwidth.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>

#include "absl/status/statusor.h"
#include "core/base/thread_pool.h"
#include "core/tensor/buffer.h"

namespace strata {

double ReadBandwidth(ThreadPool& pool) {
  constexpr int64_t kBytes = int64_t{1} << 30;
  constexpr int64_t kPieceWords = (int64_t{1} << 20) / sizeof(uint64_t);
  constexpr int64_t kWords = kBytes / sizeof(uint64_t);
  absl::StatusOr<Buffer> buffer = Buffer::Allocate(kBytes);
  if (!buffer.ok()) return 0;
  auto* const words = reinterpret_cast<uint64_t*>(buffer->data());
  // Untouched pages are all the same page of zeros.
  std::fill_n(words, kWords, uint64_t{1});

  double least_seconds = 1e30;
  std::atomic<uint64_t> total{0};  // So that no read is left out.
  for (int pass = 0; pass < 5; ++pass) {
    const auto start = std::chrono::steady_clock::now();
    pool.ParallelFor(kWords / kPieceWords, [&](int64_t piece) {
      const uint64_t* const first = words + piece * kPieceWords;
      uint64_t sum[8] = {};
      for (int64_t i = 0; i < kPieceWords; i += 8) {
        for (int64_t j = 0; j < 8; ++j) sum[j] += first[i + j];
      }
      for (const uint64_t s : sum) total += s;
    });
    const std::chrono::duration<double> seconds =
        std::chrono::steady_clock::now() - start;
    least_seconds = std::min(least_seconds, seconds.count());
  }
  return total > 0 ? kBytes / least_seconds : 0;
}

}  // namespace strata
