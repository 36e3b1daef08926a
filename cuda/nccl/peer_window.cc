#include "cuda/nccl/peer_window.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "core/base/status_macros.h"
#include "core/parallel/communicator.h"
#include "cuda/nccl/peer_memory.h"
#include "cuda/nccl/peer_table.h"
#include "cuda/runtime/device_array.h"
#include "cuda/runtime/status.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {
namespace {

constexpr int64_t kAlignment = 256;
constexpr absl::Duration kLongest = absl::Hours(24);

}  // namespace

absl::StatusOr<std::unique_ptr<PeerWindow>> PeerWindow::Open(
    Communicator& host, int device, absl::Duration timeout) {
  if (host.size() > kMaxPeers) {
    return absl::InvalidArgumentError(
        absl::StrCat(host.name(), " has ", host.size(), " ranks; want at most ",
                     kMaxPeers, " GPUs that share experts out"));
  }
  ASSIGN_OR_RETURN(auto table,
                   DeviceArray<PeerTable>::CopyOf(std::vector<PeerTable>(1)));
  auto owned = std::make_unique<DeviceArray<PeerTable>>(std::move(table));
  Peers peers;
  peers.table = owned->data();
  peers.ranks = host.size();
  peers.rank = host.rank();
  peers.timeout_ns = absl::ToInt64Nanoseconds(std::min(timeout, kLongest));
  return std::unique_ptr<PeerWindow>(
      new PeerWindow(host, device, std::move(owned), peers));
}

absl::Status PeerWindow::Reserve(int64_t piece_bytes) {
  if (piece_bytes <= piece_bytes_) return absl::OkStatus();
  piece_bytes = (piece_bytes + kAlignment - 1) / kAlignment * kAlignment;
  // What is on its way has arrived everywhere, so the old one may go.
  RETURN_IF_ERROR(host_.Barrier());
  memory_.reset();
  ASSIGN_OR_RETURN(memory_, PeerMemory::Map(host_, device_,
                                            kPeerFlagBytes + 2 * host_.size() *
                                                                 piece_bytes));
  piece_bytes_ = piece_bytes;
  char* block[kMaxPeers] = {};
  std::copy(memory_->block().begin(), memory_->block().end(), block);
  char* const table = reinterpret_cast<char*>(table_->data());
  RETURN_IF_ERROR(ToStatus(cudaMemcpy(table + offsetof(PeerTable, block), block,
                                      sizeof(block), cudaMemcpyHostToDevice)));
  RETURN_IF_ERROR(ToStatus(cudaMemcpy(table + offsetof(PeerTable, piece_bytes),
                                      &piece_bytes, sizeof(piece_bytes),
                                      cudaMemcpyHostToDevice)));
  // Flags are zero again while turns go on: nobody may wait for an old one.
  return host_.Barrier();
}

}  // namespace strata::gpu
