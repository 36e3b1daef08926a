#include "sim/network/flow_network.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "core/base/check.h"
#include "sim/engine/event_queue.h"
#include "sim/engine/time.h"
#include "sim/network/max_min.h"
#include "sim/network/topology.h"

namespace strata::sim {
namespace {

// What an event's tag says: the kind in the two highest bits, then an index of
// 30 bits, then a generation of 32.
enum EventKind : uint64_t { kArrive = 0, kEnd = 1, kSettle = 2 };

uint64_t Tag(EventKind kind, uint64_t index, uint32_t generation) {
  return kind << 62 | index << 32 | generation;
}

constexpr uint64_t kIndexMask = (uint64_t{1} << 30) - 1;

}  // namespace

FlowNetwork::FlowNetwork(const Topology& topology, EventQueue& queue)
    : topology_(&topology), queue_(&queue) {
  const int num_links = topology.num_links();
  capacity_.reserve(num_links);
  for (LinkId id = 0; id < num_links; ++id) {
    capacity_.push_back(topology.link(id).bytes_per_second);
  }
  carried_.assign(num_links, 0);
  class_of_.resize(num_links);
  link_mark_.assign(num_links, 0);
  link_index_.assign(num_links, 0);
}

void FlowNetwork::SetEfficiency(LinkKind kind, double efficiency) {
  CHECK(classes_.empty()) << "flows have started";
  CHECK(efficiency > 0 && efficiency <= 1) << efficiency;
  for (LinkId id = 0; id < topology_->num_links(); ++id) {
    const Link& link = topology_->link(id);
    if (link.kind == kind) capacity_[id] = link.bytes_per_second * efficiency;
  }
}

void FlowNetwork::StartFlow(int from, int to, double bytes,
                            EventHandler* handler, uint64_t tag) {
  Route route;
  topology_->FindRoute(from, to, route);
  StartFlowOver(route, bytes, handler, tag);
}

void FlowNetwork::StartFlowOver(absl::Span<const LinkId> route, double bytes,
                                EventHandler* handler, uint64_t tag) {
  CHECK(bytes >= 0 && std::isfinite(bytes)) << bytes;
  if (route.empty()) {
    queue_->Schedule(queue_->now(), handler, tag);
    return;
  }
  const int id = ClassOf(route);
  int slot = waiting_.size();
  if (free_slots_.empty()) {
    waiting_.emplace_back();
  } else {
    slot = free_slots_.back();
    free_slots_.pop_back();
  }
  waiting_[slot] = {id, bytes, handler, tag};
  ++num_active_;
  queue_->Schedule(AddTime(queue_->now(), classes_[id].latency), this,
                   Tag(kArrive, slot, 0));
}

int FlowNetwork::ClassOf(absl::Span<const LinkId> route) {
  const auto [it, is_new] = class_by_route_.try_emplace(
      std::vector<LinkId>(route.begin(), route.end()), classes_.size());
  if (is_new) {
    FlowClass& added = classes_.emplace_back();
    added.route = it->first;
    for (const LinkId link : route) {
      added.latency = AddTime(added.latency, topology_->link(link).latency);
    }
    class_mark_.push_back(0);
  }
  return it->second;
}

void FlowNetwork::OnEvent(Picoseconds now, uint64_t tag) {
  const int index = tag >> 32 & kIndexMask;
  switch (tag >> 62) {
    case kArrive: {
      const Waiting waiting = waiting_[index];
      free_slots_.push_back(index);
      Arrive(now, waiting);
      break;
    }
    case kEnd:
      if (classes_[index].generation == static_cast<uint32_t>(tag)) {
        EndFlows(now, index);
      }
      break;
    default:
      Settle(now);
  }
}

void FlowNetwork::Arrive(Picoseconds now, const Waiting& waiting) {
  if (waiting.bytes == 0) {
    --num_active_;
    waiting.handler->OnEvent(now, waiting.tag);
    return;
  }
  FlowClass& joined = classes_[waiting.flow_class];
  Advance(now, joined);
  if (joined.heap.empty()) joined.service = 0;
  if (!joined.listed) {
    joined.listed = true;
    for (const LinkId link : joined.route) {
      class_of_[link].push_back(waiting.flow_class);
    }
  }
  joined.heap.push_back({joined.service + waiting.bytes, next_sequence_++,
                         waiting.handler, waiting.tag});
  std::push_heap(joined.heap.begin(), joined.heap.end(), std::greater<Flow>());
  MarkDirty(now, waiting.flow_class);
}

void FlowNetwork::Advance(Picoseconds now, FlowClass& flow_class) {
  const double bytes = flow_class.rate * ToSeconds(now - flow_class.updated);
  flow_class.updated = now;
  if (flow_class.heap.empty() || bytes == 0) return;
  flow_class.service += bytes;
  for (const LinkId link : flow_class.route) {
    carried_[link] += bytes * flow_class.heap.size();
  }
}

void FlowNetwork::EndFlows(Picoseconds now, int id) {
  Advance(now, classes_[id]);
  // Ends are rounded up to a picosecond, but sums of doubles may fall short.
  const double tolerance = 1e-9 * std::max(1.0, classes_[id].service);
  std::vector<Flow> ended;
  {
    std::vector<Flow>& heap = classes_[id].heap;
    while (!heap.empty() &&
           heap.front().end <= classes_[id].service + tolerance) {
      std::pop_heap(heap.begin(), heap.end(), std::greater<Flow>());
      ended.push_back(heap.back());
      heap.pop_back();
    }
  }
  num_active_ -= ended.size();
  MarkDirty(now, id);
  // Handlers may start flows, so `classes_` may move.
  for (const Flow& flow : ended) flow.handler->OnEvent(now, flow.tag);
}

void FlowNetwork::MarkDirty(Picoseconds now, int id) {
  classes_[id].changed = true;
  if (!classes_[id].dirty) {
    classes_[id].dirty = true;
    dirty_.push_back(id);
  }
  // After all that happens at this time, so that flows which start or end
  // together cost one solution.
  if (settle_is_scheduled_) return;
  settle_is_scheduled_ = true;
  queue_->Schedule(now, this, Tag(kSettle, 0, 0));
}

void FlowNetwork::Settle(Picoseconds now) {
  settle_is_scheduled_ = false;
  ++mark_;
  for (size_t i = 0; i < dirty_.size(); ++i) {
    const int id = dirty_[i];
    classes_[id].dirty = false;
    component_.clear();
    component_capacity_.clear();
    CollectComponent(id);
    if (component_.empty()) continue;
    SolveComponent(now);
  }
  for (const int id : dirty_) {
    if (!classes_[id].heap.empty() || !classes_[id].listed) continue;
    classes_[id].listed = false;
    for (const LinkId link : classes_[id].route) {
      std::vector<int>& ids = class_of_[link];
      *std::find(ids.begin(), ids.end(), id) = ids.back();
      ids.pop_back();
    }
  }
  dirty_.clear();
}

void FlowNetwork::CollectComponent(int id) {
  if (class_mark_[id] == mark_) return;
  class_mark_[id] = mark_;
  component_.push_back(id);
  for (size_t c = 0; c < component_.size(); ++c) {
    for (const LinkId link : classes_[component_[c]].route) {
      if (link_mark_[link] == mark_) continue;
      link_mark_[link] = mark_;
      link_index_[link] = component_capacity_.size();
      component_capacity_.push_back(capacity_[link]);
      for (const int other : class_of_[link]) {
        if (class_mark_[other] == mark_) continue;
        class_mark_[other] = mark_;
        component_.push_back(other);
      }
    }
  }
}

void FlowNetwork::SolveComponent(Picoseconds now) {
  component_weight_.clear();
  component_begin_ = {0};
  component_route_.clear();
  size_t active = 0;
  for (const int id : component_) {
    FlowClass& flow_class = classes_[id];
    Advance(now, flow_class);
    if (flow_class.heap.empty()) {
      flow_class.rate = 0;
      ++flow_class.generation;
      continue;
    }
    component_[active++] = id;
    component_weight_.push_back(flow_class.heap.size());
    for (const LinkId link : flow_class.route) {
      component_route_.push_back(link_index_[link]);
    }
    component_begin_.push_back(component_route_.size());
  }
  component_.resize(active);
  solver_.Solve({component_capacity_, component_weight_, component_begin_,
                 component_route_},
                component_rate_);
  for (size_t c = 0; c < component_.size(); ++c) {
    FlowClass& flow_class = classes_[component_[c]];
    // An end that is scheduled already, at an unchanged rate, still holds.
    if (component_rate_[c] == flow_class.rate && !flow_class.changed) continue;
    flow_class.rate = component_rate_[c];
    flow_class.changed = false;
    ScheduleEnd(now, component_[c]);
  }
}

void FlowNetwork::ScheduleEnd(Picoseconds now, int id) {
  FlowClass& flow_class = classes_[id];
  ++flow_class.generation;
  const double left = flow_class.heap.front().end - flow_class.service;
  const double picoseconds =
      std::ceil(std::max(0.0, left) / flow_class.rate * kPicosecondsPerSecond);
  queue_->Schedule(
      AddTime(now, FromSeconds(picoseconds / kPicosecondsPerSecond)), this,
      Tag(kEnd, id, flow_class.generation));
}

double FlowNetwork::BytesCarried(LinkId link) const {
  double bytes = carried_[link];
  for (const int id : class_of_[link]) {
    const FlowClass& flow_class = classes_[id];
    bytes += flow_class.rate * flow_class.heap.size() *
             ToSeconds(queue_->now() - flow_class.updated);
  }
  return bytes;
}

double FlowNetwork::RateOf(LinkId link) const {
  double rate = 0;
  for (const int id : class_of_[link]) {
    rate += classes_[id].rate * classes_[id].heap.size();
  }
  return rate;
}

}  // namespace strata::sim
