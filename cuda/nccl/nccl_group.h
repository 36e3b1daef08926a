// A communicator of NCCL with a stream of its own: what never waits for ever.
//
// NCCL's calls are made as those that do not block, and asked about until the
// time is up; a group that is late or broken is aborted, which ends its
// kernels.

#ifndef CUDA_NCCL_NCCL_GROUP_H_
#define CUDA_NCCL_NCCL_GROUP_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "cuda/nccl/nccl_library.h"
#include "cuda_runtime_api.h"
#include "nccl.h"

namespace strata::gpu {

class NcclGroup {
 public:
  struct Options {
    int size = 1;
    int rank = 0;
    std::string name;  // Of error messages.
    absl::Duration timeout = absl::InfiniteDuration();
    int max_blocks = 0;  // Thread blocks of a call; 0: as NCCL likes.
    // Ends by itself when nothing is under way. Else all end together, so every
    // rank must end its groups in one order: the threads by which NCCL serves
    // other processes wait until those have gone.
    bool ends_alone = false;
  };

  // On the calling thread's device; called by all ranks with one `id`.
  //
  // Returns DEADLINE_EXCEEDED if they do not come in time.
  static absl::StatusOr<std::unique_ptr<NcclGroup>> Join(
      const NcclLibrary& nccl, const ncclUniqueId& id, const Options& options);
  ~NcclGroup();

  // A stream for calls that wait for nothing else.
  cudaStream_t stream() const { return stream_; }

  // Makes the calls of `calls` as one, on streams that they choose, and returns
  // when all are enqueued. May be part of a capture.
  absl::Status Enqueue(absl::string_view what,
                       const std::function<ncclResult_t(ncclComm_t)>& calls);

  // Ends its kernels; later calls return the same DEADLINE_EXCEEDED: the others
  // have not come.
  absl::Status GiveUp(absl::string_view what);

  // Waits for stream().
  //
  // Returns DEADLINE_EXCEEDED if it takes too long: the others have not come.
  absl::Status Wait(absl::string_view what);

 private:
  NcclGroup(const NcclLibrary& nccl, const Options& options)
      : nccl_(nccl), options_(options) {}

  // Until `begun` is no longer in progress.
  absl::Status Settle(absl::string_view what, ncclResult_t begun);
  // Aborts; every later call returns this.
  absl::Status Break(const absl::Status& status);

  const NcclLibrary& nccl_;
  const Options options_;
  ncclComm_t comm_ = nullptr;
  cudaStream_t stream_ = nullptr;
  absl::Status broken_;
};

}  // namespace strata::gpu

#endif  // CUDA_NCCL_NCCL_GROUP_H_
