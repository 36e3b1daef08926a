// A run of a workload: nodes and collectives of all ranks on one queue of
// events.
//
//   Simulate (simulator.h) --> Simulation
//     simulator.cc          nodes, events, the run
//     collective_steps.cc   collectives: their chunks, phases and steps

#ifndef SIM_ASTRA_SIMULATION_H_
#define SIM_ASTRA_SIMULATION_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "sim/astra/algorithm.h"
#include "sim/astra/collective_log.h"
#include "sim/astra/collective_plan.h"
#include "sim/astra/event_queue.h"
#include "sim/astra/mailbox.h"
#include "sim/astra/network.h"
#include "sim/astra/network_config.h"
#include "sim/astra/node_queue.h"
#include "sim/astra/rank_timers.h"
#include "sim/astra/remote_memory.h"
#include "sim/astra/simulator.h"
#include "sim/astra/system_config.h"
#include "sim/chakra/workload.h"

namespace strata::astra {

using ::strata::chakra::TraceNode;

// What a step is charged in a group of fewer ranks than there are.
constexpr int64_t kSmallGroupDelayNs = 10;
// A node without a duration.
constexpr int64_t kShortestNs = 1;
// Messages of nodes and of collectives never meet.
constexpr uint64_t kNumTags = 500'000'000;
// A group's chunks are numbered apart from those of others.
constexpr uint32_t kChunksPerGroup = 1'000'000;

enum TimerKind : uint32_t {
  kChargeDone,  // operand: the stream.
  kChargeThenReduce,
  kNodeDone,      // operand: the node.
  kMemoryServed,  // operand: the port.
};

// Receivers of messages: a node, or a stream, whose address is even.
inline uint64_t NodeReceiver(uint32_t node) {
  return (uint64_t{node} << 1) | 1;
}

class Simulation {
 public:
  Simulation(const chakra::Workload& workload, const NetworkConfig& network,
             const SystemConfig& system, const RemoteMemoryConfig& memory,
             const SimulationOptions& options);

  absl::StatusOr<SimulationResult> Run();

 private:
  // A collective on one rank.
  struct Collective {
    uint32_t node = 0;
    size_t chunks_left = 0;
  };

  // A channel that was used last, which most steps use again.
  struct CachedChannel {
    int peer = -1;
    uint64_t bytes = 0;
    uint32_t channel = 0;
  };

  // A chunk of a collective on one rank, and what its algorithm asks for.
  struct Stream final : public Port {
    void Charge(uint64_t bytes, bool reduces) override {
      simulation->timers_.Set(rank, charge_ns,
                              reduces ? kChargeThenReduce : kChargeDone,
                              reinterpret_cast<uint64_t>(this), bytes);
    }
    void Send(int peer, uint64_t bytes) override {
      simulation->SendStep(*this, peer, bytes);
    }
    void Receive(int peer, uint64_t bytes) override {
      simulation->ReceiveStep(*this, peer, bytes);
    }
    void Finish() override { simulation->EnterNextPhase(*this); }

    Simulation* simulation = nullptr;
    int rank = 0;
    size_t slot = 0;  // In streams_.
    uint32_t tag = 0;
    int64_t priority = 0;
    std::shared_ptr<Collective> collective;
    Chunk phases;
    size_t next_phase = 0;
    int queue = -1;  // Of the current phase; -1 before the first.
    bool has_started = false;
    int64_t charge_ns = 0;
    std::unique_ptr<Algorithm> algorithm;
    CachedChannel send_channel;
    CachedChannel receive_channel;
  };

  // Chunks at one dimension: as many as the system allows run, the first of the
  // list.
  struct PhaseQueue {
    std::vector<Stream*> streams;
    size_t num_running = 0;
  };

  struct Rank {
    Rank(const chakra::RankTrace& trace, CollectivePlanner p, size_t num_queues)
        : nodes(trace.nodes), planner(std::move(p)), queues(num_queues) {}

    NodeQueue nodes;
    CollectivePlanner planner;
    std::vector<PhaseQueue> queues;
    int64_t next_priority = 0;
    std::map<int, uint32_t> num_chunks;  // [group]
    int64_t compute_ns = 0;
    bool is_done = false;
    RankResult result;
  };

  const TraceNode& NodeOf(int rank, uint32_t node) const {
    return workload_.ranks[rank].nodes[node];
  }

  // Nodes.
  void StartReadyNodes(int rank);
  void StartNode(int rank, uint32_t index);
  void StartReplay(int rank, uint32_t index);
  void StartRoofline(int rank, uint32_t index);
  void StartSend(int rank, uint32_t index);
  void StartReceive(int rank, uint32_t index);
  void StartCollective(int rank, uint32_t index);
  void StartMemory(const RemoteMemory::Request& request);
  void FinishNode(int rank, uint32_t index);

  // Collectives.
  void SendStep(Stream& stream, int peer, uint64_t bytes);
  void ReceiveStep(Stream& stream, int peer, uint64_t bytes);
  void EnterNextPhase(Stream& stream);
  void StartWaitingStreams(PhaseQueue& queue);
  void CloseChannels(Stream& stream);
  int64_t Priority(Rank& rank, const TraceNode& node);
  int64_t ReduceNs(uint64_t bytes) const;

  // Events.
  void Handle(const Event& event);
  void OnTimer(int rank, const RankTimers::Timer& timer);
  void OnArrival(uint32_t channel, uint64_t sender);
  void Deliver(int rank, uint64_t receiver);

  std::optional<uint32_t> FirstRunning(int rank) const;
  absl::Status Deadlock() const;

  const chakra::Workload& workload_;
  const NetworkConfig& network_config_;
  const SystemConfig& system_;
  const SimulationOptions& options_;
  EventQueue events_;
  RankTimers timers_;
  Network network_;
  Mailbox mailbox_;
  RemoteMemory memory_;
  CollectiveLog log_;
  std::vector<Rank> ranks_;
  std::vector<std::unique_ptr<Stream>> streams_;
  const int64_t endpoint_delay_ns_;
  const size_t max_running_;  // Chunks at once, of a queue.
  absl::Status status_;
};

}  // namespace strata::astra

#endif  // SIM_ASTRA_SIMULATION_H_
