// What kernels know of the ranks whose memory they reach, free of Abseil so
// that .cu files include it.
//
//   block of a rank, mapped by all:
//     flag    [kMaxPeers]                  u32: the latest turn of each sender
//     window  [2 slots, ranks, piece_bytes]   by sender; turn t has slot t % 2
//
// A rank writes its pieces into the others' windows, then its turn into their
// flags; who has seen all flags of a turn may read its own window. A slot is
// written again two turns later: by then its reader has sent the turn between,
// which it did after reading.

#ifndef CUDA_NCCL_PEER_TABLE_H_
#define CUDA_NCCL_PEER_TABLE_H_

#include <cstdint>

#include "cuda/runtime/fault.h"
#include "cuda/runtime/wait_clock.h"

namespace strata::gpu {

constexpr int kMaxPeers = 64;
constexpr int64_t kPeerFlagBytes = 4096;  // In front of the window.

// In device memory; the host writes it while no kernel runs.
struct PeerTable {
  char* block[kMaxPeers] = {};  // Of each rank.
  int64_t piece_bytes = 0;      // A multiple of 16.
  uint32_t turn = 0;            // The latest that this rank has sent.
  uint32_t blocks_done = 0;     // Of the kernel that sends.
  int32_t late = 0;             // 1: a rank did not come; no more waiting.
  // Of kernels that run beside others: blocks of the one that begins; how many
  // have begun with all of their blocks; how many were waited for to begin.
  uint32_t blocks_begun = 0, begun = 0, awaited = 0;
};

// Given to kernels by value.
struct Peers {
  PeerTable* table = nullptr;
  int ranks = 1;
  int rank = 0;
  int64_t timeout_ns = 0;      // So long a rank is waited for.
  FaultSink fault;             // Where to say that it did not come.
  WaitClock* waits = nullptr;  // Where to count how long; null: nowhere.
};

}  // namespace strata::gpu

#endif  // CUDA_NCCL_PEER_TABLE_H_
