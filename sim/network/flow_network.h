// Flows over links, at flow level: no packets; each flow has a rate, and rates
// are max-min fair.
//
// A flow first waits for its route's latency, then drains its bytes. Rates are
// max-min fair (Bertsekas and Gallager, Data Networks, 6.5): no flow could go
// faster without slowing one that is no faster than it. They change when a flow
// starts to drain or ends, and only those of the flows that share a link with
// it, directly or through others, are computed again.
//
// Flows of the same route are one class: they have the same rate, and the next
// to end is at the top of the class's heap. So cost grows with the classes that
// touch, not with the flows.

#ifndef SIM_NETWORK_FLOW_NETWORK_H_
#define SIM_NETWORK_FLOW_NETWORK_H_

#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/types/span.h"
#include "sim/engine/event_queue.h"
#include "sim/engine/time.h"
#include "sim/network/max_min.h"
#include "sim/network/topology.h"

namespace strata::sim {

class FlowNetwork : public EventHandler {
 public:
  // Both must outlive the network.
  FlowNetwork(const Topology& topology, EventQueue& queue);

  // What a protocol makes of the bandwidth of a kind of link: a share in (0,
  // 1]. Only before the first flow.
  void SetEfficiency(LinkKind kind, double efficiency);

  // Sends `bytes`, not negative, from rank to rank, now. `handler` gets `tag`
  // when the last byte has arrived. From a rank to itself costs no time.
  void StartFlow(int from, int to, double bytes, EventHandler* handler,
                 uint64_t tag);

  // As StartFlow, over a route of the caller's.
  void StartFlowOver(absl::Span<const LinkId> route, double bytes,
                     EventHandler* handler, uint64_t tag);

  int64_t num_active() const { return num_active_; }

  // Bytes that have passed a link until now.
  double BytesCarried(LinkId link) const;
  // What flows through a link at this moment, bytes per second.
  double RateOf(LinkId link) const;
  double Capacity(LinkId link) const { return capacity_[link]; }

  void OnEvent(Picoseconds now, uint64_t tag) override;

 private:
  struct Flow {
    double end;  // Of the class's service.
    uint64_t sequence;
    EventHandler* handler;
    uint64_t tag;

    bool operator>(const Flow& other) const {
      return end != other.end ? end > other.end : sequence > other.sequence;
    }
  };

  // Flows of the same route.
  struct FlowClass {
    std::vector<LinkId> route;
    Picoseconds latency = 0;
    double rate = 0;     // Of each flow, bytes per second.
    double service = 0;  // Bytes that a flow would have got since the start.
    Picoseconds updated = 0;
    uint32_t generation = 0;  // Of its next event; others are stale.
    std::vector<Flow> heap;   // The next to end first.
    bool listed = false;      // Is in class_of_ of its links.
    bool dirty = false;       // Waits in dirty_ for new rates.
    bool changed = false;  // Has other flows than when its end was scheduled.
  };

  struct Waiting {
    int flow_class;
    double bytes;
    EventHandler* handler;
    uint64_t tag;
  };

  int ClassOf(absl::Span<const LinkId> route);
  void Start(int flow_class, double bytes, EventHandler* handler, uint64_t tag);
  void Arrive(Picoseconds now, const Waiting& waiting);
  void EndFlows(Picoseconds now, int id);
  void MarkDirty(Picoseconds now, int id);
  // Brings the service of a class, and what its links carried, up to `now`.
  void Advance(Picoseconds now, FlowClass& flow_class);
  // New rates for every class that a dirty one touches.
  void Settle(Picoseconds now);
  // Appends the active classes that share links with `id`, itself included.
  void CollectComponent(int id);
  void SolveComponent(Picoseconds now);
  void ScheduleEnd(Picoseconds now, int id);

  const Topology* topology_;
  EventQueue* queue_;
  std::vector<double> capacity_;            // [links]
  std::vector<double> carried_;             // [links]
  std::vector<std::vector<int>> class_of_;  // [links], active ones
  std::vector<FlowClass> classes_;
  absl::flat_hash_map<std::vector<LinkId>, int> class_by_route_;
  std::vector<Waiting> waiting_;  // Flows in their latency; slots are reused.
  std::vector<int> free_slots_;
  std::vector<int> dirty_;
  bool settle_is_scheduled_ = false;
  int64_t num_active_ = 0;
  uint64_t next_sequence_ = 0;

  // Scratch of Settle.
  std::vector<uint32_t> class_mark_;  // [classes]
  std::vector<uint32_t> link_mark_;   // [links]
  std::vector<int> link_index_;       // [links] -> component's
  uint32_t mark_ = 0;
  std::vector<int> component_;
  std::vector<double> component_capacity_;
  std::vector<double> component_weight_;
  std::vector<int> component_begin_;
  std::vector<int> component_route_;
  std::vector<double> component_rate_;
  MaxMinSolver solver_;
};

}  // namespace strata::sim

#endif  // SIM_NETWORK_FLOW_NETWORK_H_
