// How many messages a receiver has taken out of each of a sender's boxes
// (cuda/nccl/message_boxes.h): words of host memory that both map, so that the
// sender sees without asking the GPU which boxes are empty again.

#ifndef CUDA_NCCL_TAKEN_COUNTS_H_
#define CUDA_NCCL_TAKEN_COUNTS_H_

#include <atomic>
#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"

namespace strata::gpu {

class TakenCounts {
 public:
  static constexpr int64_t kMostBoxes = 16384;

  // Of plain bytes: what the receiver opens them by, which may be a thread or a
  // process of the sender's host.
  struct Key {
    int64_t process;
    int64_t file;
  };

  // All zero; the sender's, to be kept until the receiver has opened them.
  // Errors of the system's calls are UNAVAILABLE.
  static absl::StatusOr<std::unique_ptr<TakenCounts>> Create();
  // The receiver's.
  static absl::StatusOr<std::unique_ptr<TakenCounts>> Open(const Key& key);
  ~TakenCounts();

  // What is before Add() has been done where Of() has seen it.
  uint32_t Of(int64_t box) const {
    return counts_[box].load(std::memory_order_acquire);
  }
  void Add(int64_t box) {
    counts_[box].fetch_add(1, std::memory_order_release);
  }

  const Key& key() const { return key_; }

 private:
  explicit TakenCounts(const Key& key) : key_(key) {}

  // Maps `file`, which is then this object's.
  static absl::StatusOr<std::unique_ptr<TakenCounts>> Map(const Key& key,
                                                          int file);

  const Key key_;
  int file_ = -1;
  std::atomic<uint32_t>* counts_ = nullptr;  // [kMostBoxes]
};

}  // namespace strata::gpu

#endif  // CUDA_NCCL_TAKEN_COUNTS_H_
