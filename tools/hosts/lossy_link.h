// Packets on their way between hosts: late by a random time, or lost.
//
//   Send ──lost, or cut──> nowhere
//     └────── delay +- jitter ──────> Due, in the order of arrival
//
// As packets are late by different times, one may overtake another. What
// happens to the packet of a number is a function of the seed alone.

#ifndef TOOLS_HOSTS_LOSSY_LINK_H_
#define TOOLS_HOSTS_LOSSY_LINK_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>

#include "absl/time/time.h"
#include "core/base/random.h"

namespace strata {

struct LinkOptions {
  absl::Duration delay = absl::ZeroDuration();   // The mean of one way.
  absl::Duration jitter = absl::ZeroDuration();  // At most delay.
  double loss = 0;  // The share of packets that are lost, in [0, 1].
  uint64_t seed = 1;
};

struct Packet {
  int to = 0;  // A host.
  std::string bytes;
};

class LossyLink {
 public:
  explicit LossyLink(const LinkOptions& options);

  void Send(absl::Time now, Packet packet);

  // The next packet that has arrived by `now`, once.
  std::optional<Packet> Due(absl::Time now);

  // When the next one arrives; InfiniteFuture if none is under way.
  absl::Time next() const;

  // From now on nothing arrives, not what is under way either; or it does
  // again.
  void Cut();
  void Mend() { cut_ = false; }

  int64_t sent() const { return sent_; }
  int64_t lost() const { return lost_; }  // Also by a cut.

 private:
  const LinkOptions options_;
  Random random_;
  bool cut_ = false;
  int64_t sent_ = 0, lost_ = 0;
  // By arrival, then by number: two may arrive at once.
  std::map<std::pair<absl::Time, int64_t>, Packet> under_way_;
};

}  // namespace strata

#endif  // TOOLS_HOSTS_LOSSY_LINK_H_
