#include "cuda/nccl/nccl_sender.h"

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/base/status_macros.h"
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
  void* copy = nullptr;
  RETURN_IF_ERROR(
      ToStatus(cudaMallocAsync(&copy, num_bytes, cudaStreamPerThread)));
  RETURN_IF_ERROR(ToStatus(cudaMemcpyAsync(
      copy, data, num_bytes, cudaMemcpyDefault, cudaStreamPerThread)));
  RETURN_IF_ERROR(ToStatus(cudaStreamSynchronize(cudaStreamPerThread)));
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    RETURN_IF_ERROR(status_);
    messages_.push_back({static_cast<char*>(copy), num_bytes});
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
    const Message message = messages_.front();
    messages_.pop_front();
    lock.unlock();
    if (status.ok()) {
      status = group->Enqueue("send", [&](ncclComm_t comm) {
        return nccl_.send(message.data, message.num_bytes, ncclInt8, /*peer=*/1,
                          comm, group->stream());
      });
      if (status.ok()) status = group->Wait("send");
    }
    cudaFreeAsync(message.data, cudaStreamPerThread);
    lock.lock();
  }
}

}  // namespace strata::gpu
