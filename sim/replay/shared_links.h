// Communications under way, and how they slow each other on the links that they
// share.
//
//   all-reduce of group 1   NIC 0 of node 0: 1    NIC 0 of node 1: 1
//   send from rank 0 to 8   NIC 0 of node 0: 1
//                           ----------------- both at half their speed
//
// A communication alone takes its latency, then its work. While it works at
// speed s it takes s times its share of each of its links, and the shares on a
// link add up to 1 at most. Speeds are max-min fair (Bertsekas and Gallager,
// Data Networks, 6.5): none could be higher without slowing one that is no
// higher. They change when a communication begins to work or ends, and only for
// those that share links with it, directly or through others.
//
// A collective is one communication, whatever its steps: where one of its links
// is slowed, all of it is, as its ranks wait for each other.

#ifndef SIM_REPLAY_SHARED_LINKS_H_
#define SIM_REPLAY_SHARED_LINKS_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "sim/collective/collective.h"
#include "sim/engine/event_queue.h"
#include "sim/engine/time.h"

namespace strata::sim {

class SharedLinks : public EventHandler {
 public:
  // `queue` must outlive it.
  SharedLinks(int num_links, EventQueue& queue);

  // Starts a communication now; `handler` gets `tag` at its end. `links`, whose
  // shares are in (0, 1], must stay until then.
  void Start(Picoseconds latency, Picoseconds work,
             absl::Span<const LinkShare> links, EventHandler* handler,
             uint64_t tag);

  void OnEvent(Picoseconds now, uint64_t tag) override;

 private:
  struct Communication {
    absl::Span<const LinkShare> links;
    EventHandler* handler = nullptr;
    uint64_t tag = 0;
    double left = 0;  // Picoseconds of work alone.
    double speed = 0;
    double new_speed = 0;  // While speeds are sought.
    Picoseconds updated = 0;
    uint32_t generation = 0;  // Of its next event; others are stale.
    bool works = false;       // Its latency is over.
    uint32_t mark = 0;
  };

  void BeginWork(Picoseconds now, int id);
  void End(Picoseconds now, int id);
  // Brings what is left up to `now`.
  void Advance(Picoseconds now, Communication& communication);
  // New speeds for all that share links with what has changed.
  void Settle(Picoseconds now);
  void CollectComponent(LinkId seed);
  void SolveComponent(Picoseconds now);
  void MarkDirty(Picoseconds now, absl::Span<const LinkShare> links);

  EventQueue* queue_;
  std::vector<Communication> communications_;
  std::vector<int> free_;                // Of communications_.
  std::vector<std::vector<int>> users_;  // [links], working ones
  std::vector<LinkId> dirty_;
  bool settle_is_scheduled_ = false;

  // Scratch of Settle.
  uint32_t mark_ = 0;
  std::vector<uint32_t> link_mark_;  // [links]
  std::vector<int> component_;
  std::vector<LinkId> component_links_;
  std::vector<int> open_, fixed_, rest_;  // Of component_, without a speed.
  std::vector<double> residual_;          // [links]
  std::vector<double> demand_;            // [links], of those without a speed
};

}  // namespace strata::sim

#endif  // SIM_REPLAY_SHARED_LINKS_H_
