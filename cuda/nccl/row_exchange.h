// Rows of experts from GPU to GPU: the kernels of core/ops/collective_rows.h,
// for ranks that map one another's windows (cuda/nccl/peer_window.h).
//
//   home    x [rows, d], by expert of all E                      rank r
//     |  push: the rows of an owner's experts, one piece to the window of each
//     v
//   window of the owner, by sender
//     |  take: of each sender and expert to its place
//     v
//   owner   [rows of all ranks, d], by expert of its own, then sender
//
// and back likewise: each owner pushes what it has of a rank's rows in their
// order at home, which takes them as they are. How many there are is in counts
// on the device, so nothing here waits for the host, and a captured program has
// it inside. A kernel of one warp waits for the flags between the two; beside
// other work all is one kernel, of few blocks that stay where they are.

#ifndef CUDA_NCCL_ROW_EXCHANGE_H_
#define CUDA_NCCL_ROW_EXCHANGE_H_

#include <cstdint>

#include "cuda/nccl/peer_table.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

// Waits, on the stream, until all ranks have sent the turn that the kernel
// before has sent.
cudaError_t WaitForPeers(const Peers& peers, cudaStream_t stream);

// An owner has at most so many experts.
constexpr int kMaxOwnedExperts = 1024;

struct PlanExchangeArgs {
  Peers peers;
  int experts = 0;                       // Of an owner.
  const int32_t* home_offset = nullptr;  // [ranks * experts + 1]
  int32_t* count = nullptr;              // [ranks, experts]
  int32_t* offset = nullptr;             // [experts + 1]
  int32_t* rows = nullptr;               // []
};

// Tells each owner how many rows of its experts this rank has. Pieces are of
// 4 * experts bytes. Zeros if a rank does not come.
cudaError_t ExchangePlans(const PlanExchangeArgs& args, cudaStream_t stream);

// Rows of F32, or of BF16.
struct Rows {
  void* data = nullptr;
  bool is_bf16 = false;
};

struct RowExchangeArgs {
  Peers peers;
  int experts = 0;  // Of an owner.
  int64_t columns = 0;
  bool rounded = false;  // Rows go as BF16. Own rows go as they are.
  const int32_t* home_offset = nullptr;  // [ranks * experts + 1]
  const int32_t* count = nullptr;        // [ranks, experts]
  Rows from;                             // [rows, columns], at home or at the
  Rows to;                               // owner; and where they go
  // Others compute meanwhile: keep to few multiprocessors, for longer. Results
  // are the same.
  bool beside = false;
};

// Bytes of an element that is on its way.
inline int64_t SentBytes(bool rounded) { return rounded ? 2 : 4; }

// Waits, on `stream`, until an exchange that was enqueued beside it has begun
// with all of its blocks, so that kernels which fill the GPU do not come first;
// once for each, in their order. Goes on after 100 us at the latest.
cudaError_t AwaitBegun(const Peers& peers, cudaStream_t stream);

// Pieces are of as many elements as `from`, or `to`, at home may have.
cudaError_t SendRowsToOwners(const RowExchangeArgs& args, cudaStream_t stream);
cudaError_t ReturnRowsHome(const RowExchangeArgs& args, cudaStream_t stream);

}  // namespace strata::gpu

#endif  // CUDA_NCCL_ROW_EXCHANGE_H_
