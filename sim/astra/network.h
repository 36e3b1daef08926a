// The network of ASTRA-sim's analytical mode: when a message arrives.
//
// Congestion unaware, a message takes hops * latency + bytes / bandwidth,
// whatever else is under way. Between ranks that differ in several dimensions
// the lowest of them counts alone.
//
// Congestion aware, in one dimension, messages are stored and forwarded: a link
// serves one at a time, first come first served, for bytes / bandwidth, and the
// message is at its other end a latency later. All delays are cut to whole ns.

#ifndef SIM_ASTRA_NETWORK_H_
#define SIM_ASTRA_NETWORK_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "sim/astra/event_queue.h"
#include "sim/astra/network_config.h"

namespace strata::astra {

class Network {
 public:
  // Whether such a network can be simulated. Returns UNIMPLEMENTED for a
  // congestion aware one of several dimensions.
  static absl::Status Check(const NetworkConfig& config, bool congestion_aware);

  // Schedules its events in `queue`, which must outlive it.
  Network(const NetworkConfig& config, bool congestion_aware,
          EventQueue& queue);

  // Sends from now on. `arrival` is scheduled for when the message arrives
  // (unaware), or returned by OnHop then (aware).
  void Send(int src, int dst, uint64_t bytes, Event arrival);

  // Handle events kHop, which returns the arrival if the message has arrived,
  // and kLinkFree.
  std::optional<Event> OnHop(uint32_t message);
  void OnLinkFree(uint32_t link);

 private:
  static constexpr uint32_t kNone = UINT32_MAX;

  struct Message {
    uint64_t bytes = 0;
    int at = 0;  // A rank, or num_ranks for the switch.
    int dst = 0;
    int step = 1;           // Of a ring: along, or against, rising ranks.
    uint32_t next = kNone;  // Behind it in a link's queue, or in free ones.
    Event arrival;
  };

  struct Link {
    bool busy = false;
    uint32_t first = kNone;  // Messages that wait.
    uint32_t last = kNone;
  };

  int NextHop(const Message& message) const;
  uint32_t LinkTo(int from, int to, int step) const;
  void Forward(uint32_t message);
  void Transmit(uint32_t link, uint32_t message);
  int64_t UnawareDelay(int src, int dst, uint64_t bytes) const;

  NetworkConfig config_;
  bool congestion_aware_;
  EventQueue& queue_;
  int num_ranks_;
  std::vector<double> bytes_per_ns_;  // [dimension]
  std::vector<Link> links_;
  std::vector<Message> messages_;
  uint32_t free_message_ = kNone;
};

}  // namespace strata::astra

#endif  // SIM_ASTRA_NETWORK_H_
