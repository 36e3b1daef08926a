// Where the ranks of a group put what they send to one another, by kernels:
// messages of as many bytes as a count on the device says, inside of a captured
// program (cuda/nccl/row_exchange.h).

#ifndef CUDA_NCCL_PEER_WINDOW_H_
#define CUDA_NCCL_PEER_WINDOW_H_

#include <cstdint>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "core/parallel/communicator.h"
#include "cuda/nccl/peer_memory.h"
#include "cuda/nccl/peer_table.h"
#include "cuda/runtime/device_array.h"

namespace strata::gpu {

class PeerWindow {
 public:
  // `host` brings the ranks together and must outlive it. A rank that has not
  // come `timeout` after another is a fault of that one's program.
  //
  // Returns INVALID_ARGUMENT if there are more than kMaxPeers ranks.
  static absl::StatusOr<std::unique_ptr<PeerWindow>> Open(
      Communicator& host, int device, absl::Duration timeout);

  // Makes room for pieces of that size. Where there is room it does nothing;
  // else every rank calls it, with the same size, while none of its kernels
  // runs and nothing is captured. Kernels that were captured before find the
  // new window. Returns the errors of PeerMemory::Map.
  absl::Status Reserve(int64_t piece_bytes);

  // For kernels; never another while the window lives.
  Peers peers() const { return peers_; }

 private:
  PeerWindow(Communicator& host, int device,
             std::unique_ptr<DeviceArray<PeerTable>> table, const Peers& peers)
      : host_(host), device_(device), table_(std::move(table)), peers_(peers) {}

  Communicator& host_;
  const int device_;
  const std::unique_ptr<DeviceArray<PeerTable>> table_;
  const Peers peers_;
  std::unique_ptr<PeerMemory> memory_;
  int64_t piece_bytes_ = 0;
};

}  // namespace strata::gpu

#endif  // CUDA_NCCL_PEER_WINDOW_H_
