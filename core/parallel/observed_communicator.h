// A communicator whose calls are looked at, whatever carries them: by who
// counts what a rank sends (traffic_meter.h), records what it does
// (training/trace), or lets it take its time (training/paced).
//
//   const std::unique_ptr<Communicator> world = Observed(*ranks, observer);
//   Mesh::Create(*world, shape) ...      what is split off is observed too
//
// Observers nest: of two, that which is given the other's result is the first
// before a call, and the last after it.

#ifndef CORE_PARALLEL_OBSERVED_COMMUNICATOR_H_
#define CORE_PARALLEL_OBSERVED_COMMUNICATOR_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "core/parallel/communicator.h"

namespace strata {

// A group, as all its members know it.
struct RankGroup {
  std::string name;  // "dp"
  // 0: the world. Groups that were split off have numbers of their own, the
  // same on each member.
  int64_t number = 0;
  std::vector<int> ranks;  // Of the world, in the group's order.
};

struct CommCall {
  enum class Kind {
    kAllReduce,
    kAllGather,
    kReduceScatter,
    kAllToAll,
    kBroadcast,
    kSend,
    kReceive,
    kBarrier,
  };

  Kind kind = Kind::kBarrier;
  const RankGroup* group = nullptr;
  // The whole buffer: of all ranks for gathers and reduce-scatters. Not of an
  // all-to-all, which has counts.
  int64_t bytes = 0;
  int peer = -1;  // Of sends and receives, a rank of the group.
  // Elements to and from each rank, of an all-to-all.
  absl::Span<const int64_t> sent;
  absl::Span<const int64_t> received;
  int element_bytes = 0;

  // Whether it may wait for other ranks.
  bool waits() const { return kind != Kind::kSend; }
};

// Of one rank. Where its lanes call groups beside the program's thread
// (core/runtime/lanes.h), each thread tells of its own.
class CommObserver {
 public:
  virtual ~CommObserver() = default;

  // Before and after a call, on the thread that makes it. `group` is what the
  // call is passed on to: calls to it are not observed by this one. An error is
  // the call's.
  virtual absl::Status Before(const CommCall& call, Communicator& group) {
    return absl::OkStatus();
  }
  virtual absl::Status After(const CommCall& call, Communicator& group) {
    return absl::OkStatus();
  }
};

// `world`, with its calls and those of what is split off it observed; splits
// themselves, which also gather who is in which group, are not. Both must
// outlive the result.
std::unique_ptr<Communicator> Observed(Communicator& world,
                                       CommObserver& observer);

}  // namespace strata

#endif  // CORE_PARALLEL_OBSERVED_COMMUNICATOR_H_
