#include "cuda/nccl/nccl_sender.h"

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/base/status_macros.h"
#include "cuda/nccl/message_copy.h"
#include "cuda/nccl/nccl_group.h"
#include "cuda/nccl/nccl_library.h"
#include "cuda/runtime/status.h"
#include "cuda_runtime_api.h"
#include "nccl.h"

namespace strata::gpu {

NcclSender::NcclSender(
    int device,
    std::function<absl::StatusOr<std::unique_ptr<NcclGroup>>()> join,
    const NcclLibrary& nccl)
    : device_(device),
      nccl_(nccl),
      thread_([this, join = std::move(join)] { Run(join); }) {}

NcclSender::~NcclSender() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    closed_ = true;
  }
  changed_.notify_one();
  thread_.join();
}

absl::Status NcclSender::Send(const void* data, int64_t num_bytes) {
  ASSIGN_OR_RETURN(MessageCopy copy, MessageCopy::Of(data, num_bytes));
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    RETURN_IF_ERROR(status_);
    messages_.push_back(std::move(copy));
  }
  changed_.notify_one();
  return absl::OkStatus();
}

void NcclSender::Run(
    const std::function<absl::StatusOr<std::unique_ptr<NcclGroup>>()>& join) {
  absl::Status status = ToStatus(cudaSetDevice(device_));
  std::unique_ptr<NcclGroup> group;
  if (status.ok()) {
    auto joined = join();
    status = joined.status();
    if (joined.ok()) group = *std::move(joined);
  }
  std::unique_lock<std::mutex> lock(mutex_);
  while (true) {
    status_.Update(status);
    changed_.wait(lock, [this] { return closed_ || !messages_.empty(); });
    if (messages_.empty()) return;
    {
      const MessageCopy message = std::move(messages_.front());
      messages_.pop_front();
      lock.unlock();
      if (status.ok()) {
        status = group->Enqueue("send", [&](ncclComm_t comm) {
          return nccl_.send(message.data(), message.num_bytes(), ncclInt8,
                            /*peer=*/1, comm, group->stream());
        });
        if (status.ok()) status = group->Wait("send");
      }
    }
    lock.lock();
  }
}

}  // namespace strata::gpu
