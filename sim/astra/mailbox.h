// Where messages meet their receives: by (tag, source, destination, bytes), and
// of those alike the first with the first.

#ifndef SIM_ASTRA_MAILBOX_H_
#define SIM_ASTRA_MAILBOX_H_

#include <cstdint>
#include <optional>
#include <tuple>
#include <vector>

#include "absl/container/flat_hash_map.h"

namespace strata::astra {

class Mailbox {
 public:
  // Opens the channel of such messages: it stays until it is closed as often as
  // it was opened and nothing is under way or waits in it.
  uint32_t Open(uint32_t tag, int src, int dst, uint64_t bytes);
  void Close(uint32_t channel);

  // A message is under way.
  void Send(uint32_t channel) { ++channels_[channel].num_under_way; }

  // A message has arrived: returns the receiver that waits for it, if any, and
  // keeps the message otherwise.
  std::optional<uint64_t> Arrive(uint32_t channel);

  // Wants a message for `receiver`: true if one has arrived, which is then
  // taken; otherwise Arrive returns the receiver in its turn.
  bool Receive(uint32_t channel, uint64_t receiver);

  int src(uint32_t channel) const { return channels_[channel].src; }
  int dst(uint32_t channel) const { return channels_[channel].dst; }

 private:
  static constexpr uint32_t kNone = UINT32_MAX;

  struct Channel {
    uint32_t tag = 0;
    int src = 0;
    int dst = 0;
    uint64_t bytes = 0;
    uint32_t num_users = 0;
    uint32_t num_under_way = 0;
    uint32_t num_arrived = 0;        // And not wanted yet.
    uint32_t first_waiting = kNone;  // In waiting_; or the next free channel.
    uint32_t last_waiting = kNone;
  };

  struct Waiting {
    uint64_t receiver = 0;
    uint32_t next = kNone;
  };

  void FreeIfIdle(uint32_t channel);

  absl::flat_hash_map<std::tuple<uint32_t, int, int, uint64_t>, uint32_t>
      channel_of_;
  std::vector<Channel> channels_;
  uint32_t free_channel_ = kNone;
  std::vector<Waiting> waiting_;
  uint32_t free_waiting_ = kNone;
};

}  // namespace strata::astra

#endif  // SIM_ASTRA_MAILBOX_H_
