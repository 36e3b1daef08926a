// Ranks of tests that want one GPU only: threads whose windows are all they
// have.

#ifndef CUDA_NCCL_THREADS_WITH_WINDOWS_H_
#define CUDA_NCCL_THREADS_WITH_WINDOWS_H_

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "core/base/status_macros.h"
#include "core/parallel/communicator.h"
#include "cuda/nccl/gpu_group.h"
#include "cuda/nccl/peer_table.h"
#include "cuda/nccl/peer_window.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

// Kernels of ranks that share a GPU wait for one another, so no two streams may
// share one of its queues, which are 8 unless the environment says otherwise
// before CUDA starts.
inline const int kQueuesWereAskedFor =
    setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", /*overwrite=*/0);
// A kernel's code is loaded at its first launch, which may wait until nothing
// runs on the GPU: until the kernel has ended that waits for it.
inline const int kCodeIsLoadedAtOnce =
    setenv("CUDA_MODULE_LOADING", "EAGER", /*overwrite=*/0);

// Threads with windows on GPUs, of which several may have one: NCCL, which
// wants one each, is not asked.
class ThreadsWithWindows : public Communicator, public GpuGroup {
 public:
  ThreadsWithWindows(Communicator& host, std::unique_ptr<Communicator> owned,
                     int device, absl::Duration timeout)
      : owned_(std::move(owned)),
        host_(host),
        device_(device),
        timeout_(timeout) {}

  int rank() const override { return host_.rank(); }
  int size() const override { return host_.size(); }
  absl::string_view name() const override { return host_.name(); }
  absl::Status Barrier() override { return host_.Barrier(); }
  absl::StatusOr<std::unique_ptr<Communicator>> Split(
      int color, int key, absl::string_view name) override {
    ASSIGN_OR_RETURN(std::unique_ptr<Communicator> part,
                     host_.Split(color, key, name));
    if (part == nullptr) return nullptr;
    Communicator& host = *part;
    return std::make_unique<ThreadsWithWindows>(host, std::move(part), device_,
                                                timeout_);
  }
  absl::StatusOr<Peers> PeersFor(int64_t piece_bytes) override {
    if (window_ == nullptr) {
      ASSIGN_OR_RETURN(window_, PeerWindow::Open(host_, device_, timeout_));
    }
    RETURN_IF_ERROR(window_->Reserve(piece_bytes));
    return window_->peers();
  }

  // What waits in windows watches the time by itself.
  absl::Duration timeout() const override { return absl::InfiniteDuration(); }
  absl::Status GiveUp(absl::string_view) override { return None(); }

  // Nothing here sums or copies by other ways.
  absl::Status AllReduce(const Payload&, ReduceOp) override { return None(); }
  absl::Status AllGather(const Payload&, absl::Span<const int64_t>,
                         const Payload&) override {
    return None();
  }
  absl::Status ReduceScatter(const Payload&, absl::Span<const int64_t>,
                             const Payload&) override {
    return None();
  }
  absl::Status AllToAll(const Payload&, absl::Span<const int64_t>,
                        absl::Span<const int64_t>, const Payload&) override {
    return None();
  }
  absl::Status Broadcast(const Payload&, int) override { return None(); }
  absl::Status Send(const Payload&, int) override { return None(); }
  absl::Status Receive(const Payload&, int) override { return None(); }
  absl::Status EnqueueAllReduce(absl::Span<const Payload>,
                                cudaStream_t) override {
    return None();
  }
  absl::Status EnqueueBroadcast(absl::Span<const Payload>, int,
                                cudaStream_t) override {
    return None();
  }
  absl::Status EnqueueAllGather(const Payload&, const Payload&,
                                cudaStream_t) override {
    return None();
  }

 private:
  static absl::Status None() {
    return absl::UnimplementedError("windows are all there is");
  }

  const std::unique_ptr<Communicator> owned_;
  Communicator& host_;
  const int device_;
  const absl::Duration timeout_;
  std::unique_ptr<PeerWindow> window_;
};

}  // namespace strata::gpu

#endif  // CUDA_NCCL_THREADS_WITH_WINDOWS_H_
