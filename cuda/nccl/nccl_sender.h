// Messages from one rank to another over NCCL, whose send waits for its
// receiver: a group of the two ranks, and a thread that waits in the sender's
// place.

#ifndef CUDA_NCCL_NCCL_SENDER_H_
#define CUDA_NCCL_NCCL_SENDER_H_

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cuda/nccl/message_copy.h"
#include "cuda/nccl/nccl_group.h"

namespace strata::gpu {

class NcclSender {
 public:
  // `join` makes the group of the two (this one is rank 0), on `device`.
  NcclSender(int device,
             std::function<absl::StatusOr<std::unique_ptr<NcclGroup>>()> join,
             const NcclLibrary& nccl);
  // Waits for what is on its way, as long as the group waits.
  ~NcclSender();

  // Sends a copy of `num_bytes` > 0 bytes of host or device memory. Returns
  // what went wrong with messages before.
  absl::Status Send(const void* data, int64_t num_bytes);

 private:
  void Run(
      const std::function<absl::StatusOr<std::unique_ptr<NcclGroup>>()>& join);

  const int device_;
  const NcclLibrary& nccl_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<MessageCopy> messages_;
  bool closed_ = false;
  absl::Status status_;
  std::thread thread_;
};

}  // namespace strata::gpu

#endif  // CUDA_NCCL_NCCL_SENDER_H_
