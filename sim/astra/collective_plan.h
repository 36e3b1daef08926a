// How a collective becomes chunks, and a chunk becomes phases: one algorithm
// over one dimension after another.

#ifndef SIM_ASTRA_COLLECTIVE_PLAN_H_
#define SIM_ASTRA_COLLECTIVE_PLAN_H_

#include <array>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "sim/astra/algorithm.h"
#include "sim/astra/network_config.h"
#include "sim/astra/system_config.h"

namespace strata::astra {

inline constexpr int kNumCollectiveTypes = 4;

// The phases of a chunk, in order.
using Chunk = std::vector<Phase>;

struct CollectiveRequest {
  CollectiveType type = CollectiveType::kAllReduce;
  uint64_t bytes = 0;
  // The ranks that take part, in ring order; null for all. Must outlive the
  // phases.
  const std::vector<int>* members = nullptr;
  // Of a collective of all ranks: which dimensions take part; those beyond the
  // end do. Empty: all do.
  absl::Span<const uint8_t> involved;
};

// Whether such a collective can be planned: independent of the rank.
//
// Returns FAILED_PRECONDITION if the system has no algorithm for it or lacks
// local-mem-bw, INVALID_ARGUMENT for a number of ranks or bytes that the
// algorithm cannot cut, UNIMPLEMENTED for what would have no meaning.
absl::Status CheckCollective(const SystemConfig& system,
                             const NetworkConfig& network,
                             const CollectiveRequest& request);

// Plans the collectives of one rank. It has state: queues and trees take turns
// from chunk to chunk.
class CollectivePlanner {
 public:
  // Both configurations must outlive it.
  CollectivePlanner(const SystemConfig& system, const NetworkConfig& network,
                    int rank, int queues_per_dimension);

  // The chunks of a collective that CheckCollective accepts; the rank is among
  // its members. Empty if there is nobody to communicate with.
  std::vector<Chunk> Plan(const CollectiveRequest& request);

 private:
  struct Dimension {
    Implementation implementation;
    Ring ring;
    bool small_group = false;
    int index = 0;     // Of the queues and trees that it uses.
    bool used = true;  // More than one rank, and involved.
  };

  struct QueueTurns {
    int any = 0;
    int first_half = 0;
    int second_half = 0;
  };

  std::vector<Dimension> Dimensions(const CollectiveRequest& request) const;
  Chunk PlanChunk(const CollectiveRequest& request, uint64_t bytes,
                  const std::vector<Dimension>& dimensions);
  void AddPhase(const Dimension& dimension, CollectiveType topology_type,
                CollectiveType type, uint64_t& bytes, Chunk& chunk);
  void TakeAnyQueue(Phase& phase);
  void TakeFirstHalfQueue(Phase& phase);
  void TakeSecondHalfQueue(Phase& phase);

  const SystemConfig& system_;
  const NetworkConfig& network_;
  const int rank_;
  const int queues_per_dimension_;
  std::vector<QueueTurns> turns_;  // [dimension]
  // How many trees each dimension has given out, by type of collective.
  std::vector<std::array<int, kNumCollectiveTypes>> trees_;
};

}  // namespace strata::astra

#endif  // SIM_ASTRA_COLLECTIVE_PLAN_H_
