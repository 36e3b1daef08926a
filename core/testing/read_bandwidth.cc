#include "core/testing/read_bandwidth.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <utility>

#include "absl/status/statusor.h"
#include "core/base/check.h"
#include "core/base/thread_pool.h"
#include "core/cpu/vector_math.h"
#include "core/tensor/buffer.h"

namespace strata {
namespace {

constexpr int64_t kBytes = int64_t{1} << 29;
constexpr int64_t kPieceBytes = int64_t{1} << 20;

}  // namespace

ReadBandwidth::ReadBandwidth(ThreadPool& pool) : pool_(pool) {
  absl::StatusOr<Buffer> buffer = Buffer::Allocate(kBytes);
  CHECK(buffer.ok()) << buffer.status();
  buffer_ = *std::move(buffer);
  // Untouched pages are all the same page of zeros.
  std::fill_n(Words(), kBytes / sizeof(float), 1.0f);
}

double ReadBandwidth::Measure() const {
  constexpr int64_t kPiece = kPieceBytes / sizeof(float);
  const VectorMath<float>& vec = VectorMath<float>::Get();
  std::atomic<int64_t> read{0};  // So that no sum is left out.
  const auto start = std::chrono::steady_clock::now();
  pool_.ParallelFor(kBytes / kPieceBytes, [&](int64_t piece) {
    read += static_cast<int64_t>(vec.sum(Words() + piece * kPiece, kPiece));
  });
  const std::chrono::duration<double> seconds =
      std::chrono::steady_clock::now() - start;
  CHECK_EQ(read, kBytes / static_cast<int64_t>(sizeof(float)));
  return kBytes / seconds.count();
}

}  // namespace strata
