// GPUs that exchange data over NVLink (or the network), as a Communicator.
//
//   ASSIGN_OR_RETURN(auto world,
//                    NcclCommunicator::Join(host, device, timeout));
//   world->AllReduce(...)  // Of host or device memory.
//
//   rank 0: thread or process -- host communicator -- rank 1    who is there
//              GPU 0 ============= NCCL ============== GPU 1    what is moved
//
// The host's communicator (threads or MPI) brings ranks together: ids of
// groups, sizes of messages, barriers. Payloads go through NCCL: device memory
// as it is, host memory by way of a buffer on the device; messages between
// threads by copies (message_boxes.h). Calls return when the data is there.
// Those of GpuGroup are for a program's own stream.

#ifndef CUDA_NCCL_NCCL_COMMUNICATOR_H_
#define CUDA_NCCL_NCCL_COMMUNICATOR_H_

#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "core/parallel/communicator.h"
#include "cuda/nccl/gpu_group.h"

namespace strata::gpu {

enum class Messages {
  kBoxes,  // By copies where two ranks are on one host.
  kNccl,
};

class NcclCommunicator : public Communicator, public GpuGroup {
 public:
  // To be called by every rank of `host`, each with a GPU of its own, on the
  // thread that will make all calls. `host` must outlive it.
  //
  // Returns UNAVAILABLE if NCCL or the GPU is not there.
  static absl::StatusOr<std::unique_ptr<NcclCommunicator>> Join(
      Communicator& host, int device, absl::Duration timeout,
      Messages messages = Messages::kBoxes);
};

}  // namespace strata::gpu

#endif  // CUDA_NCCL_NCCL_COMMUNICATOR_H_
