// Messages between GPUs of one host, without a kernel of either.
//
//   sender                          host's communicator            receiver
//   data -- copied --> box   ---- size, box, key if new ---->   opens the box
//                      box   ============ NVLink ============>  data
//                    count   <---------- one more taken --------
//
// A message waits in a box, memory of the sender's that the receiver opens, and
// the receiver's copy engine brings it: a send over NCCL is a kernel that keeps
// some of the sender's multiprocessors busy until its receiver comes. A box is
// used again once its message is taken, which the receiver says in host memory
// (cuda/nccl/taken_counts.h); there are as many boxes as messages have been on
// their way at once.

#ifndef CUDA_NCCL_MESSAGE_BOXES_H_
#define CUDA_NCCL_MESSAGE_BOXES_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "cuda/nccl/shared_block.h"
#include "cuda/nccl/taken_counts.h"

namespace strata::gpu {

// Of plain bytes: the sender tells the receiver.
struct BoxedMessage {
  int64_t num_bytes;
  int64_t box;     // Which of the sender's for this receiver.
  int64_t is_new;  // 1: the box's key comes with this message.
  SharedBlockKey key;
  TakenCounts::Key counts;
};

// Those of a sender, for one receiver. On one thread.
class Outbox {
 public:
  Outbox(const RankPlace& here, const RankPlace& receiver,
         absl::Duration timeout);
  // Waits until all messages are taken, for `timeout` at most.
  ~Outbox();

  // Copies `num_bytes` > 0 bytes of host or device memory. The receiver is to
  // be told of the result.
  //
  // Returns RESOURCE_EXHAUSTED if more messages wait than there can be boxes.
  absl::StatusOr<BoxedMessage> Put(const void* data, int64_t num_bytes);

 private:
  struct Box {
    std::unique_ptr<SharedBlock> block;
    int64_t capacity = 0;  // Bytes.
    uint32_t num_sent = 0;
  };

  bool IsEmpty(int64_t box) const {
    return counts_->Of(box) == boxes_[box].num_sent;
  }
  // A box that is empty and has room for so much; a new one if there is none.
  absl::StatusOr<int64_t> FindBox(int64_t num_bytes, BoxedMessage& message);

  const RankPlace here_;
  const RankPlace receiver_;
  const absl::Duration timeout_;
  std::unique_ptr<TakenCounts> counts_;  // Null before the first message.
  std::vector<Box> boxes_;
};

// The receiver's side of one sender's. On one thread.
class Inbox {
 public:
  Inbox(const RankPlace& here, const RankPlace& sender)
      : is_thread_(AreThreads(here, sender)) {}

  // Brings a message to host or device memory; it is there when this returns.
  absl::Status Take(const BoxedMessage& message, void* data);

 private:
  const bool is_thread_;
  std::unique_ptr<TakenCounts> counts_;
  std::vector<std::unique_ptr<OpenedBlock>> boxes_;
};

}  // namespace strata::gpu

#endif  // CUDA_NCCL_MESSAGE_BOXES_H_
