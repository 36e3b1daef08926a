#include "sim/astra/collective_plan.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "sim/astra/algorithm.h"
#include "sim/astra/network_config.h"
#include "sim/astra/system_config.h"

namespace strata::astra {
namespace {

// Room for what phases multiply: an all-gather's bytes by the ranks.
constexpr uint64_t kMaxBytes = uint64_t{1} << 46;

const Implementations& ImplementationsOf(const SystemConfig& system,
                                         CollectiveType type) {
  switch (type) {
    case CollectiveType::kAllReduce:
      return system.all_reduce;
    case CollectiveType::kAllGather:
      return system.all_gather;
    case CollectiveType::kReduceScatter:
      return system.reduce_scatter;
    case CollectiveType::kAllToAll:
      break;
  }
  return system.all_to_all;
}

const char* KeyOf(CollectiveType type) {
  switch (type) {
    case CollectiveType::kAllReduce:
      return "all-reduce-implementation";
    case CollectiveType::kAllGather:
      return "all-gather-implementation";
    case CollectiveType::kReduceScatter:
      return "reduce-scatter-implementation";
    case CollectiveType::kAllToAll:
      break;
  }
  return "all-to-all-implementation";
}

bool IsSmall(const NetworkConfig& network, const CollectiveRequest& request) {
  return request.members != nullptr &&
         static_cast<int>(request.members->size()) != network.num_ranks();
}

// The algorithms of the dimensions that the collective sees: of a group that is
// not all ranks, one, and that is a ring if the file has several.
Implementations Chosen(const SystemConfig& system, const NetworkConfig& network,
                       const CollectiveRequest& request) {
  Implementations chosen = ImplementationsOf(system, request.type);
  if (!IsSmall(network, request)) return chosen;
  if (chosen.size() > 1) return {Implementation()};
  return chosen;
}

// Cuts a collective: bytes of a chunk, and how many there are. The last chunk
// is as large as the others, whatever is left for it.
struct Cut {
  uint64_t chunk_bytes = 0;
  uint64_t num_chunks = 0;
};

Cut CutCollective(const SystemConfig& system, const NetworkConfig& network,
                  const CollectiveRequest& request) {
  const uint64_t splits = system.preferred_splits;
  const uint64_t num_ranks = network.num_ranks();
  uint64_t bytes = request.bytes;
  uint64_t chunk_bytes = bytes / splits;
  // A chunk is cut again, a piece for each rank; an all-gather's is not.
  if (request.type != CollectiveType::kAllGather && chunk_bytes < num_ranks) {
    chunk_bytes = num_ranks;
    bytes = splits * chunk_bytes;
  }
  if (chunk_bytes == 0) return {};
  return {chunk_bytes, (bytes + chunk_bytes - 1) / chunk_bytes};
}

}  // namespace

absl::Status CheckCollective(const SystemConfig& system,
                             const NetworkConfig& network,
                             const CollectiveRequest& request) {
  const char* const key = KeyOf(request.type);
  const Implementations chosen = Chosen(system, network, request);
  if (chosen.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat("the system file lacks ", key));
  }
  const bool is_small = IsSmall(network, request);
  for (size_t d = 0; d < chosen.size(); ++d) {
    const Implementation& implementation = chosen[d];
    if (!is_small && !implementation.all_ranks &&
        d >= network.dimensions.size()) {
      return absl::FailedPreconditionError(
          absl::StrCat(key,
                       " has more algorithms than the network has "
                       "dimensions, ",
                       network.dimensions.size()));
    }
    if (implementation.kind == AlgorithmKind::kHalvingDoubling &&
        request.type == CollectiveType::kAllToAll) {
      return absl::UnimplementedError(
          absl::StrCat(key, " is halvingDoubling, which has no all-to-all"));
    }
    const int num_ranks =
        is_small
            ? static_cast<int>(request.members->size())
            : network.dimensions[std::min(d, network.dimensions.size() - 1)]
                  .num_ranks;
    if (implementation.kind == AlgorithmKind::kDoubleBinaryTree) {
      if (is_small) {
        return absl::UnimplementedError(absl::StrCat(
            key, " is doubleBinaryTree, which has no groups of ranks"));
      }
      if ((num_ranks & (num_ranks - 1)) != 0) {
        return absl::InvalidArgumentError(
            absl::StrCat(key,
                         " is doubleBinaryTree, which wants a power of "
                         "two of ranks, not ",
                         num_ranks));
      }
    }
    if (implementation.all_ranks) break;
  }
  if (request.bytes > kMaxBytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        request.bytes, " bytes are more than a collective can have, 2^46"));
  }
  const Cut cut = CutCollective(system, network, request);
  if (cut.chunk_bytes == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("an all-gather of ", request.bytes,
                     " bytes cannot be cut into preferred-dataset-splits, ",
                     system.preferred_splits));
  }
  const bool reduces = request.type == CollectiveType::kAllReduce ||
                       request.type == CollectiveType::kReduceScatter;
  if (reduces && system.local_memory_gbps == 0) {
    return absl::FailedPreconditionError(
        "the system file lacks local-mem-bw, which reductions take");
  }
  return absl::OkStatus();
}

CollectivePlanner::CollectivePlanner(const SystemConfig& system,
                                     const NetworkConfig& network, int rank,
                                     int queues_per_dimension)
    : system_(system),
      network_(network),
      rank_(rank),
      queues_per_dimension_(queues_per_dimension),
      turns_(network.dimensions.size() + 1),
      trees_(network.dimensions.size() + 1) {
  for (QueueTurns& turns : turns_) {
    turns.second_half = queues_per_dimension / 2;
  }
}

std::vector<CollectivePlanner::Dimension> CollectivePlanner::Dimensions(
    const CollectiveRequest& request) const {
  std::vector<Dimension> dimensions;
  const Implementations chosen = Chosen(system_, network_, request);
  if (IsSmall(network_, request)) {
    const std::vector<int>& members = *request.members;
    Dimension dimension;
    dimension.implementation = chosen[0];
    dimension.ring.size = static_cast<int>(members.size());
    dimension.ring.index = static_cast<int>(
        std::find(members.begin(), members.end(), rank_) - members.begin());
    dimension.ring.members = &members;
    dimension.small_group = true;
    dimension.used = dimension.ring.size > 1;
    return {dimension};
  }
  int stride = 1;
  for (size_t d = 0; d < chosen.size(); ++d) {
    Dimension dimension;
    dimension.implementation = chosen[d];
    dimension.index = static_cast<int>(d);
    // A group that happens to have all ranks uses all dimensions.
    dimension.used = request.members != nullptr ||
                     d >= request.involved.size() || request.involved[d] != 0;
    if (chosen[d].all_ranks) {
      dimension.ring = {network_.num_ranks(), rank_};
      dimensions.push_back(dimension);
      break;
    }
    const int size = network_.dimensions[d].num_ranks;
    const int index = rank_ / stride % size;
    dimension.ring = {size, index, rank_ - index * stride, stride};
    dimensions.push_back(dimension);
    stride *= size;
  }
  return dimensions;
}

std::vector<Chunk> CollectivePlanner::Plan(const CollectiveRequest& request) {
  const std::vector<Dimension> dimensions = Dimensions(request);
  const Cut cut = CutCollective(system_, network_, request);
  std::vector<Chunk> chunks;
  for (uint64_t i = 0; i < cut.num_chunks; ++i) {
    chunks.push_back(PlanChunk(request, cut.chunk_bytes, dimensions));
    if (chunks.back().empty()) return {};
  }
  return chunks;
}

Chunk CollectivePlanner::PlanChunk(const CollectiveRequest& request,
                                   uint64_t bytes,
                                   const std::vector<Dimension>& dimensions) {
  Chunk chunk;
  std::vector<const Dimension*> used;
  for (const Dimension& dimension : dimensions) {
    if (dimension.used) used.push_back(&dimension);
  }
  const CollectiveType type = request.type;
  if (type != CollectiveType::kAllReduce || !system_.local_bw_aware) {
    // All-gathers begin with the last dimension.
    if (type == CollectiveType::kAllGather) {
      std::reverse(used.begin(), used.end());
    }
    for (const Dimension* const dimension : used) {
      AddPhase(*dimension, type, type, bytes, chunk);
      TakeAnyQueue(chunk.back());
    }
    return chunk;
  }
  // Reduce-scatters down to the last dimension, which all-reduces what is left,
  // and all-gathers back. Each way has its half of the queues.
  if (used.empty()) return chunk;
  for (size_t i = 0; i + 1 < used.size(); ++i) {
    AddPhase(*used[i], type, CollectiveType::kReduceScatter, bytes, chunk);
    TakeFirstHalfQueue(chunk.back());
  }
  AddPhase(*used.back(), type, CollectiveType::kAllReduce, bytes, chunk);
  TakeFirstHalfQueue(chunk.back());
  for (size_t i = used.size() - 1; i-- > 0;) {
    AddPhase(*used[i], type, CollectiveType::kAllGather, bytes, chunk);
    TakeSecondHalfQueue(chunk.back());
  }
  return chunk;
}

void CollectivePlanner::AddPhase(const Dimension& dimension,
                                 CollectiveType topology_type,
                                 CollectiveType type, uint64_t& bytes,
                                 Chunk& chunk) {
  Phase phase;
  phase.kind = dimension.implementation.kind;
  phase.type = type;
  phase.bytes = bytes;
  phase.ring = dimension.ring;
  phase.queue = dimension.index * queues_per_dimension_;
  phase.window = dimension.implementation.window;
  phase.small_group = dimension.small_group;
  if (phase.kind == AlgorithmKind::kDoubleBinaryTree) {
    int& count = trees_[dimension.index][static_cast<int>(topology_type)];
    phase.root_last = count++ % 2 == 0;
  }
  bytes = BytesAfter(phase);
  chunk.push_back(phase);
}

void CollectivePlanner::TakeAnyQueue(Phase& phase) {
  int& turn = turns_[phase.queue / queues_per_dimension_].any;
  phase.anticlockwise =
      queues_per_dimension_ > 1 && turn >= queues_per_dimension_ / 2;
  phase.queue += turn;
  turn = (turn + 1) % queues_per_dimension_;
}

void CollectivePlanner::TakeFirstHalfQueue(Phase& phase) {
  int& turn = turns_[phase.queue / queues_per_dimension_].first_half;
  phase.queue += turn;
  if (++turn >= queues_per_dimension_ / 2) turn = 0;
}

void CollectivePlanner::TakeSecondHalfQueue(Phase& phase) {
  int& turn = turns_[phase.queue / queues_per_dimension_].second_half;
  phase.anticlockwise = true;
  phase.queue += turn;
  if (++turn >= queues_per_dimension_) turn = queues_per_dimension_ / 2;
}

}  // namespace strata::astra
