#include "sim/astra/simulator.h"

#include <cmath>
#include <cstdint>
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
#include "sim/astra/deadlock.h"
#include "sim/astra/event_queue.h"
#include "sim/astra/network.h"
#include "sim/astra/network_config.h"
#include "sim/astra/node_queue.h"
#include "sim/astra/rank_timers.h"
#include "sim/astra/remote_memory.h"
#include "sim/astra/simulation.h"
#include "sim/astra/system_config.h"
#include "sim/chakra/chakra.pb.h"
#include "sim/chakra/check.h"
#include "sim/chakra/workload.h"

namespace strata::astra {

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
