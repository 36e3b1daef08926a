// A block of device memory of each rank of a group, which all of them map: what
// a kernel writes through it goes over NVLink.

#ifndef CUDA_NCCL_PEER_MEMORY_H_
#define CUDA_NCCL_PEER_MEMORY_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "core/parallel/communicator.h"
#include "cuda/nccl/shared_block.h"

namespace strata::gpu {

class PeerMemory {
 public:
  // Zeroed. To be called by every rank of `host`, with the same size, on the
  // thread whose current device is `device`.
  //
  // Returns FAILED_PRECONDITION if a rank is on another host,
  // RESOURCE_EXHAUSTED if one has no room, and UNAVAILABLE if its GPU cannot be
  // reached; all ranks the same.
  static absl::StatusOr<std::unique_ptr<PeerMemory>> Map(Communicator& host,
                                                         int device,
                                                         int64_t num_bytes);
  // The others must have come to the end of what they do with this rank's
  // block.
  ~PeerMemory() = default;

  // [ranks], as this one sees them.
  const std::vector<char*>& block() const { return block_; }

 private:
  PeerMemory() = default;

  std::vector<char*> block_;
  std::vector<std::unique_ptr<OpenedBlock>> opened_;
  std::unique_ptr<SharedBlock> own_;
};

}  // namespace strata::gpu

#endif  // CUDA_NCCL_PEER_MEMORY_H_
