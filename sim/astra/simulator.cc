#include "sim/astra/simulator.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "core/base/check.h"
#include "core/base/status_macros.h"
#include "sim/astra/algorithm.h"
#include "sim/astra/check_node.h"
#include "sim/astra/collective_log.h"
#include "sim/astra/collective_plan.h"
#include "sim/astra/deadlock.h"
#include "sim/astra/event_queue.h"
#include "sim/astra/mailbox.h"
#include "sim/astra/network.h"
#include "sim/astra/network_config.h"
#include "sim/astra/node_queue.h"
#include "sim/astra/rank_timers.h"
#include "sim/astra/remote_memory.h"
#include "sim/astra/system_config.h"
#include "sim/chakra/chakra.pb.h"
#include "sim/chakra/check.h"
#include "sim/chakra/workload.h"

namespace strata::astra {
namespace {

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
uint64_t NodeReceiver(uint32_t node) { return (uint64_t{node} << 1) | 1; }

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

Simulation::Simulation(const chakra::Workload& workload,
                       const NetworkConfig& network, const SystemConfig& system,
                       const RemoteMemoryConfig& memory,
                       const SimulationOptions& options)
    : workload_(workload),
      network_config_(network),
      system_(system),
      options_(options),
      timers_(network.num_ranks(), events_),
      network_(network, options.congestion_aware, events_),
      memory_(memory, network.num_ranks()),
      log_(workload),
      endpoint_delay_ns_(
          static_cast<int64_t>(static_cast<double>(system.endpoint_delay_ns) *
                               options.injection_scale)),
      max_running_((system.active_chunks + options.queues_per_dimension - 1) /
                   options.queues_per_dimension) {
  const size_t num_queues =
      network.dimensions.size() * options.queues_per_dimension;
  ranks_.reserve(workload.ranks.size());
  for (size_t rank = 0; rank < workload.ranks.size(); ++rank) {
    ranks_.emplace_back(
        workload.ranks[rank],
        CollectivePlanner(system, network, static_cast<int>(rank),
                          options.queues_per_dimension),
        num_queues);
  }
}

absl::StatusOr<SimulationResult> Simulation::Run() {
  for (size_t rank = 0; rank < ranks_.size(); ++rank) {
    StartReadyNodes(static_cast<int>(rank));
  }
  Event event;
  while (status_.ok() && events_.Next(&event)) Handle(event);
  RETURN_IF_ERROR(status_);
  if (events_.overflow()) {
    return absl::OutOfRangeError(absl::StrCat(
        "the run takes longer than 2^62 ns; the last event was at ",
        events_.now_ns(), " ns"));
  }
  SimulationResult result;
  result.num_events = events_.num_events();
  for (const Rank& rank : ranks_) {
    if (!rank.is_done) return Deadlock();
    result.ranks.push_back(rank.result);
  }
  return result;
}

void Simulation::StartReadyNodes(int rank) {
  NodeQueue& nodes = ranks_[rank].nodes;
  do {
    nodes.BeginPass();
    while (const std::optional<uint32_t> node = nodes.Take()) {
      StartNode(rank, *node);
    }
    nodes.EndPass();
    // A pass of nodes without time, with nothing under way that would start
    // another, must not be the last.
  } while (nodes.has_ready() && nodes.num_running() == 0);
  if (nodes.all_done() && !ranks_[rank].is_done) {
    ranks_[rank].is_done = true;
    ranks_[rank].result = {events_.now_ns(),
                           events_.now_ns() - ranks_[rank].compute_ns};
  }
}

void Simulation::StartNode(int rank, uint32_t index) {
  const TraceNode& node = NodeOf(rank, index);
  if (system_.replay_only) return StartReplay(rank, index);
  switch (node.type) {
    case ChakraProtoMsg::MEM_LOAD_NODE:
    case ChakraProtoMsg::MEM_STORE_NODE:
      if (memory_.Start({rank, index, *node.tensor_bytes})) {
        StartMemory({rank, index, *node.tensor_bytes});
      }
      return;
    case ChakraProtoMsg::COMP_NODE:
      if (system_.roofline && !node.is_cpu_op) {
        return StartRoofline(rank, index);
      }
      return StartReplay(rank, index);
    case ChakraProtoMsg::COMM_SEND_NODE:
      return StartSend(rank, index);
    case ChakraProtoMsg::COMM_RECV_NODE:
      return StartReceive(rank, index);
    case ChakraProtoMsg::COMM_COLL_NODE:
      return StartCollective(rank, index);
    default:  // Metadata, invalid nodes and unknown ones take no time.
      ranks_[rank].nodes.Finish(index);
  }
}

void Simulation::StartReplay(int rank, uint32_t index) {
  const TraceNode& node = NodeOf(rank, index);
  const int64_t ns = node.duration_us == 0
                         ? kShortestNs
                         : static_cast<int64_t>(node.duration_us) * 1000;
  if (!node.is_cpu_op) ranks_[rank].compute_ns += ns;
  timers_.Set(rank, ns, kNodeDone, index);
}

void Simulation::StartRoofline(int rank, uint32_t index) {
  const TraceNode& node = NodeOf(rank, index);
  if (*node.tensor_bytes == 0) {
    ranks_[rank].nodes.Finish(index);
    return;
  }
  const auto flops = static_cast<double>(*node.num_ops);
  const double intensity = flops / static_cast<double>(*node.tensor_bytes);
  const double flops_per_s = std::min(
      system_.local_memory_gbps * 1e9 * intensity, system_.peak_tflops * 1e12);
  const double ns = flops_per_s > 0 ? flops / flops_per_s * 1e9 : 0;
  if (ns > static_cast<double>(EventQueue::kMaxTimeNs) / 2) {
    status_ = absl::OutOfRangeError(
        absl::StrCat(workload_.ranks[rank].path, ": rank ", rank, ", ",
                     chakra::NodeName(node), " takes ", ns, " ns"));
    return;
  }
  ranks_[rank].compute_ns += static_cast<int64_t>(ns);
  timers_.Set(rank, static_cast<int64_t>(ns), kNodeDone, index);
}

void Simulation::StartSend(int rank, uint32_t index) {
  const TraceNode& node = NodeOf(rank, index);
  const int dst = static_cast<int>(*node.comm_dst);
  const uint32_t channel =
      mailbox_.Open(static_cast<uint32_t>(*node.comm_tag % kNumTags), rank, dst,
                    *node.comm_bytes);
  mailbox_.Send(channel);
  mailbox_.Close(channel);
  // The sender is told of the arrival: 0 is nobody.
  network_.Send(rank, dst, *node.comm_bytes,
                {EventKind::kArrival, channel, uint64_t{index} + 1});
}

void Simulation::StartReceive(int rank, uint32_t index) {
  const TraceNode& node = NodeOf(rank, index);
  const uint32_t channel =
      mailbox_.Open(static_cast<uint32_t>(*node.comm_tag % kNumTags),
                    static_cast<int>(*node.comm_src), rank, *node.comm_bytes);
  if (mailbox_.Receive(channel, NodeReceiver(index))) {
    events_.Schedule(0, {EventKind::kDelivery, static_cast<uint32_t>(rank),
                         NodeReceiver(index)});
  }
  mailbox_.Close(channel);
}

void Simulation::StartCollective(int rank, uint32_t index) {
  const TraceNode& node = NodeOf(rank, index);
  if (*node.comm_type == ChakraProtoMsg::BROADCAST) {
    timers_.Set(rank,
                node.duration_us == 0
                    ? kShortestNs
                    : static_cast<int64_t>(node.duration_us) * 1000,
                kNodeDone, index);
    return;
  }
  status_.Update(log_.Join(rank, node));
  if (!status_.ok()) return;
  const std::optional<CollectiveRequest> request =
      ToRequest(workload_, rank, node);
  CHECK(request.has_value()) << "CheckNodes has accepted it";
  Rank& state = ranks_[rank];
  std::vector<Chunk> chunks = state.planner.Plan(*request);
  const int64_t priority = Priority(state, node);
  if (chunks.empty()) {  // Nobody to communicate with.
    timers_.Set(rank, kShortestNs, kNodeDone, index);
    return;
  }
  auto collective = std::make_shared<Collective>();
  collective->node = index;
  collective->chunks_left = chunks.size();
  for (Chunk& chunk : chunks) {
    auto stream = std::make_unique<Stream>();
    stream->simulation = this;
    stream->rank = rank;
    stream->slot = streams_.size();
    const uint64_t number =
        uint64_t{kChunksPerGroup} * node.group + state.num_chunks[node.group]++;
    stream->tag = static_cast<uint32_t>(kNumTags + number % kNumTags);
    stream->priority = priority;
    stream->collective = collective;
    stream->phases = std::move(chunk);
    streams_.push_back(std::move(stream));
    EnterNextPhase(*streams_.back());
  }
}

void Simulation::StartMemory(const RemoteMemory::Request& request) {
  const int64_t delay_ns = memory_.DelayNs(request.bytes);
  timers_.Set(request.rank, delay_ns, kNodeDone, request.node);
  timers_.Set(request.rank, delay_ns, kMemoryServed,
              memory_.PortOf(request.rank));
}

void Simulation::FinishNode(int rank, uint32_t index) {
  ranks_[rank].nodes.Finish(index);
  StartReadyNodes(rank);
}

int64_t Simulation::Priority(Rank& rank, const TraceNode& node) {
  switch (system_.scheduling_policy) {
    case SchedulingPolicy::kLifo:
      return rank.next_priority++;
    case SchedulingPolicy::kFifo:
      return rank.next_priority--;
    case SchedulingPolicy::kExplicit:
      break;
  }
  return static_cast<int32_t>(node.comm_priority);
}

void Simulation::SendStep(Stream& stream, int peer, uint64_t bytes) {
  CachedChannel& cached = stream.send_channel;
  if (cached.peer != peer || cached.bytes != bytes) {
    if (cached.peer >= 0) mailbox_.Close(cached.channel);
    cached = {peer, bytes, mailbox_.Open(stream.tag, stream.rank, peer, bytes)};
  }
  mailbox_.Send(cached.channel);
  network_.Send(stream.rank, peer, bytes,
                {EventKind::kArrival, cached.channel, 0});
}

void Simulation::ReceiveStep(Stream& stream, int peer, uint64_t bytes) {
  CachedChannel& cached = stream.receive_channel;
  if (cached.peer != peer || cached.bytes != bytes) {
    if (cached.peer >= 0) mailbox_.Close(cached.channel);
    cached = {peer, bytes, mailbox_.Open(stream.tag, peer, stream.rank, bytes)};
  }
  const auto receiver = reinterpret_cast<uint64_t>(&stream);
  if (mailbox_.Receive(cached.channel, receiver)) {
    events_.Schedule(0, {EventKind::kDelivery,
                         static_cast<uint32_t>(stream.rank), receiver});
  }
}

void Simulation::CloseChannels(Stream& stream) {
  for (CachedChannel* const cached :
       {&stream.send_channel, &stream.receive_channel}) {
    if (cached->peer >= 0) mailbox_.Close(cached->channel);
    *cached = CachedChannel();
  }
}

// The order of what happens here is ASTRA-sim's: the collective's end may issue
// others, which then find the queue as it was.
void Simulation::EnterNextPhase(Stream& stream) {
  Rank& rank = ranks_[stream.rank];
  const bool is_over = stream.next_phase == stream.phases.size();
  stream.algorithm.reset();
  CloseChannels(stream);
  if (is_over && --stream.collective->chunks_left == 0) {
    FinishNode(stream.rank, stream.collective->node);
  }
  PhaseQueue* const left =
      stream.queue < 0 ? nullptr : &rank.queues[stream.queue];
  if (left != nullptr) {
    left->streams.erase(
        std::find(left->streams.begin(), left->streams.end(), &stream));
    if (is_over) {
      --left->num_running;
      StartWaitingStreams(*left);
    }
  }
  if (is_over) {
    const size_t slot = stream.slot;
    std::swap(streams_[slot], streams_.back());
    streams_[slot]->slot = slot;
    streams_.pop_back();
    return;
  }

  const Phase& phase = stream.phases[stream.next_phase++];
  stream.queue = phase.queue;
  stream.has_started = false;
  stream.charge_ns =
      phase.small_group ? kSmallGroupDelayNs : endpoint_delay_ns_;
  stream.algorithm = MakeAlgorithm(phase, stream);
  PhaseQueue& entered = rank.queues[phase.queue];
  // Behind those that run and those of its own priority or a higher one.
  auto place = entered.streams.begin();
  while (place != entered.streams.end() &&
         ((*place)->has_started || (*place)->priority >= stream.priority)) {
    ++place;
  }
  entered.streams.insert(place, &stream);
  if (left != nullptr) {
    --left->num_running;
    StartWaitingStreams(*left);
  }
  StartWaitingStreams(entered);
}

void Simulation::StartWaitingStreams(PhaseQueue& queue) {
  while (queue.num_running < queue.streams.size() &&
         queue.num_running < max_running_) {
    Stream& stream = *queue.streams[queue.num_running++];
    stream.has_started = true;
    stream.algorithm->On(Algorithm::Signal::kStart);
  }
}

int64_t Simulation::ReduceNs(uint64_t bytes) const {
  // One pass writes, two read; each is cut to whole ns. In this order, since
  // the cut sees the last bit.
  const double bytes_per_s = system_.local_memory_gbps * 1e9;
  return 3 *
         static_cast<int64_t>(static_cast<double>(bytes) / bytes_per_s * 1e9);
}

void Simulation::Handle(const Event& event) {
  switch (event.kind) {
    case EventKind::kTimer:
      timers_.RunDue(static_cast<int>(event.a),
                     [&](const RankTimers::Timer& timer) {
                       OnTimer(static_cast<int>(event.a), timer);
                     });
      return;
    case EventKind::kArrival:
      OnArrival(event.a, event.b);
      return;
    case EventKind::kDelivery:
      Deliver(static_cast<int>(event.a), event.b);
      return;
    case EventKind::kHop:
      if (const std::optional<Event> arrival = network_.OnHop(event.a)) {
        OnArrival(arrival->a, arrival->b);
      }
      return;
    case EventKind::kLinkFree:
      network_.OnLinkFree(event.a);
      return;
  }
}

void Simulation::OnTimer(int rank, const RankTimers::Timer& timer) {
  switch (timer.kind) {
    case kChargeDone:
      reinterpret_cast<Stream*>(timer.operand)
          ->algorithm->On(Algorithm::Signal::kCharged);
      return;
    case kChargeThenReduce:
      timers_.Set(rank, ReduceNs(timer.bytes), kChargeDone, timer.operand);
      return;
    case kNodeDone:
      FinishNode(rank, static_cast<uint32_t>(timer.operand));
      return;
    case kMemoryServed:
      if (const std::optional<RemoteMemory::Request> next =
              memory_.Next(static_cast<int>(timer.operand))) {
        StartMemory(*next);
      }
      return;
  }
}

void Simulation::OnArrival(uint32_t channel, uint64_t sender) {
  const int src = mailbox_.src(channel);
  const int dst = mailbox_.dst(channel);
  const std::optional<uint64_t> receiver = mailbox_.Arrive(channel);
  if (sender != 0) FinishNode(src, static_cast<uint32_t>(sender - 1));
  if (receiver.has_value()) Deliver(dst, *receiver);
}

void Simulation::Deliver(int rank, uint64_t receiver) {
  if ((receiver & 1) != 0) {
    FinishNode(rank, static_cast<uint32_t>(receiver >> 1));
    return;
  }
  reinterpret_cast<Stream*>(receiver)->algorithm->On(
      Algorithm::Signal::kReceived);
}

std::optional<uint32_t> Simulation::FirstRunning(int rank) const {
  for (uint32_t i = 0; i < workload_.ranks[rank].nodes.size(); ++i) {
    if (ranks_[rank].nodes.is_running(i)) return i;
  }
  return std::nullopt;
}

absl::Status Simulation::Deadlock() const {
  std::vector<std::optional<uint32_t>> waits_in(ranks_.size());
  for (size_t rank = 0; rank < ranks_.size(); ++rank) {
    if (ranks_[rank].is_done) continue;
    waits_in[rank] = FirstRunning(static_cast<int>(rank));
    CHECK(waits_in[rank].has_value())
        << "rank " << rank << " has nodes but runs none";
  }
  return DeadlockError(workload_, log_, events_.now_ns(), waits_in);
}

}  // namespace

absl::StatusOr<SimulationResult> Simulate(const chakra::Workload& workload,
                                          const NetworkConfig& network,
                                          const SystemConfig& system,
                                          const RemoteMemoryConfig& memory,
                                          const SimulationOptions& options) {
  RETURN_IF_ERROR(Network::Check(network, options.congestion_aware));
  if (static_cast<int>(workload.ranks.size()) != network.num_ranks()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the network has ", network.num_ranks(),
                     " ranks, the workload ", workload.ranks.size()));
  }
  if (options.queues_per_dimension < 1 ||
      options.queues_per_dimension > (1 << 10)) {
    return absl::InvalidArgumentError(absl::StrCat("queues per dimension are ",
                                                   options.queues_per_dimension,
                                                   "; want 1 to 1024"));
  }
  RETURN_IF_ERROR(chakra::CheckWorkload(workload));
  RETURN_IF_ERROR(CheckNodes(workload, network, system, memory));
  return Simulation(workload, network, system, memory, options).Run();
}

}  // namespace strata::astra
