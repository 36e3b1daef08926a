#include "sim/astra/network.h"

#include <algorithm>
#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "sim/astra/event_queue.h"
#include "sim/astra/network_config.h"

namespace strata::astra {
namespace {

// Steps along rising ranks from src to dst in a ring.
int Clockwise(int src, int dst, int num_ranks) {
  return dst >= src ? dst - src : dst - src + num_ranks;
}

// Beyond the queue's range it stays beyond.
int64_t ToNs(double delay) {
  return delay < static_cast<double>(EventQueue::kMaxTimeNs)
             ? static_cast<int64_t>(delay)
             : EventQueue::kMaxTimeNs + 1;
}

}  // namespace

absl::Status Network::Check(const NetworkConfig& config,
                            bool congestion_aware) {
  if (congestion_aware && config.dimensions.size() > 1) {
    return absl::UnimplementedError(
        absl::StrCat("the congestion aware network has one dimension, not ",
                     config.dimensions.size()));
  }
  return absl::OkStatus();
}

Network::Network(const NetworkConfig& config, bool congestion_aware,
                 EventQueue& queue)
    : config_(config),
      congestion_aware_(congestion_aware),
      queue_(queue),
      num_ranks_(config.num_ranks()) {
  for (const NetworkDimension& dimension : config.dimensions) {
    // In this order, since the cut to whole ns sees the last bit.
    bytes_per_ns_.push_back(dimension.bandwidth_gbps * (1 << 30) / 1e9);
  }
  if (!congestion_aware) return;
  const uint64_t n = num_ranks_;
  links_.resize(config.dimensions[0].topology == Topology::kFullyConnected
                    ? n * n
                    : 2 * n);
}

void Network::Send(int src, int dst, uint64_t bytes, Event arrival) {
  if (!congestion_aware_) {
    queue_.Schedule(UnawareDelay(src, dst, bytes), arrival);
    return;
  }
  uint32_t index = free_message_;
  if (index == kNone) {
    index = static_cast<uint32_t>(messages_.size());
    messages_.emplace_back();
  } else {
    free_message_ = messages_[index].next;
  }
  const int clockwise = Clockwise(src, dst, num_ranks_);
  Message& message = messages_[index];
  message.bytes = bytes;
  message.at = src;
  message.dst = dst;
  message.step = num_ranks_ - clockwise < clockwise ? -1 : 1;
  message.next = kNone;
  message.arrival = arrival;
  Forward(index);
}

std::optional<Event> Network::OnHop(uint32_t index) {
  Message& message = messages_[index];
  message.at = NextHop(message);
  if (message.at != message.dst) {
    Forward(index);
    return std::nullopt;
  }
  message.next = free_message_;
  free_message_ = index;
  return message.arrival;
}

void Network::OnLinkFree(uint32_t index) {
  Link& link = links_[index];
  link.busy = false;
  if (link.first == kNone) return;
  const uint32_t message = link.first;
  link.first = messages_[message].next;
  if (link.first == kNone) link.last = kNone;
  messages_[message].next = kNone;
  Transmit(index, message);
}

int Network::NextHop(const Message& message) const {
  switch (config_.dimensions[0].topology) {
    case Topology::kRing: {
      const int next = message.at + message.step;
      return next < 0 ? num_ranks_ - 1 : next == num_ranks_ ? 0 : next;
    }
    case Topology::kSwitch:
      return message.at == num_ranks_ ? message.dst : num_ranks_;
    case Topology::kFullyConnected:
      break;
  }
  return message.dst;
}

uint32_t Network::LinkTo(int from, int to, int step) const {
  switch (config_.dimensions[0].topology) {
    case Topology::kRing:
      return step > 0 ? from : num_ranks_ + from;
    case Topology::kSwitch:
      return from < num_ranks_ ? from : num_ranks_ + to;
    case Topology::kFullyConnected:
      break;
  }
  return static_cast<uint32_t>(from) * num_ranks_ + to;
}

void Network::Forward(uint32_t index) {
  const Message& message = messages_[index];
  const uint32_t link_index =
      LinkTo(message.at, NextHop(message), message.step);
  Link& link = links_[link_index];
  if (!link.busy) {
    Transmit(link_index, index);
    return;
  }
  (link.last == kNone ? link.first : messages_[link.last].next) = index;
  link.last = index;
}

void Network::Transmit(uint32_t link, uint32_t message) {
  links_[link].busy = true;
  const double serialization =
      static_cast<double>(messages_[message].bytes) / bytes_per_ns_[0];
  queue_.Schedule(ToNs(config_.dimensions[0].latency_ns + serialization),
                  {EventKind::kHop, message});
  queue_.Schedule(ToNs(serialization), {EventKind::kLinkFree, link});
}

int64_t Network::UnawareDelay(int src, int dst, uint64_t bytes) const {
  size_t d = 0;
  int size = config_.dimensions[0].num_ranks;
  while (src % size == dst % size && d + 1 < config_.dimensions.size()) {
    src /= size;
    dst /= size;
    size = config_.dimensions[++d].num_ranks;
  }
  const NetworkDimension& dimension = config_.dimensions[d];
  int hops = 1;
  if (dimension.topology == Topology::kSwitch) {
    hops = 2;
  } else if (dimension.topology == Topology::kRing) {
    const int clockwise = Clockwise(src % size, dst % size, size);
    hops = std::min(clockwise, size - clockwise);
  }
  return ToNs(hops * dimension.latency_ns +
              static_cast<double>(bytes) / bytes_per_ns_[d]);
}

}  // namespace strata::astra
