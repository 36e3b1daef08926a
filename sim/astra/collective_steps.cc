// Collectives of a Simulation: chunks in their queues, phase by phase.

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "core/base/check.h"
#include "sim/astra/algorithm.h"
#include "sim/astra/check_node.h"
#include "sim/astra/collective_plan.h"
#include "sim/astra/event_queue.h"
#include "sim/astra/simulation.h"
#include "sim/astra/system_config.h"
#include "sim/chakra/chakra.pb.h"

namespace strata::astra {

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

}  // namespace strata::astra
