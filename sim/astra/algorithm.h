// The collective algorithms of one rank in one phase, as state machines: they
// are told what happened and answer with charges, sends and receives.
//
// Every step is charged to the rank's memory bus before its message may go: the
// endpoint delay, and where the step reduces what it received, three passes
// over the bytes at the local memory's bandwidth.

#ifndef SIM_ASTRA_ALGORITHM_H_
#define SIM_ASTRA_ALGORITHM_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "sim/astra/system_config.h"

namespace strata::astra {

enum class CollectiveType { kAllReduce, kReduceScatter, kAllGather, kAllToAll };

// The ranks of a phase, and the place of one among them: base + i * stride, or
// those of a group.
struct Ring {
  int size = 0;
  int index = 0;  // Of the rank itself.
  int base = 0;
  int stride = 1;
  const std::vector<int>* members = nullptr;  // [size], or null.

  // The rank at index + offset, all the way round.
  int At(int64_t offset) const {
    int64_t i = (index + offset) % size;
    if (i < 0) i += size;
    return members != nullptr ? (*members)[i]
                              : base + static_cast<int>(i) * stride;
  }
};

// One algorithm over one dimension.
struct Phase {
  AlgorithmKind kind = AlgorithmKind::kRing;
  CollectiveType type = CollectiveType::kAllReduce;
  uint64_t bytes = 0;  // Of the chunk that the phase starts with.
  Ring ring;
  int queue = 0;
  bool anticlockwise = false;
  int window = 0;            // Of kDirect; 0 for all.
  bool small_group = false;  // Of fewer ranks than there are.
  bool root_last = false;    // Of kDoubleBinaryTree: which of the two trees.
};

// Bytes of the chunk after the phase.
uint64_t BytesAfter(const Phase& phase);

// What an algorithm asks for. Ranks are those of the network.
class Port {
 public:
  virtual ~Port() = default;

  // Answers with kCharged once the step of `bytes` is charged.
  virtual void Charge(uint64_t bytes, bool reduces) = 0;
  virtual void Send(int rank, uint64_t bytes) = 0;
  // Answers with kReceived.
  virtual void Receive(int rank, uint64_t bytes) = 0;
  // The phase is over; the algorithm may be gone on return.
  virtual void Finish() = 0;
};

class Algorithm {
 public:
  enum class Signal { kStart, kCharged, kReceived };

  virtual ~Algorithm() = default;
  virtual void On(Signal signal) = 0;
};

// `port` must outlive the algorithm. A halving-doubling all-to-all is a bug, as
// is a tree over a number of ranks that is no power of two.
std::unique_ptr<Algorithm> MakeAlgorithm(const Phase& phase, Port& port);

}  // namespace strata::astra

#endif  // SIM_ASTRA_ALGORITHM_H_
