#include "tools/hosts/lossy_link.h"

#include <optional>
#include <utility>

#include "absl/time/time.h"
#include "core/base/check.h"
#include "core/base/random.h"

namespace strata {

LossyLink::LossyLink(const LinkOptions& options)
    : options_(options), random_(options.seed, HashName("lossy_link")) {
  CHECK(options.jitter <= options.delay)
      << options.jitter << " is more than " << options.delay;
  CHECK(options.loss >= 0 && options.loss <= 1) << options.loss;
}

void LossyLink::Send(absl::Time now, Packet packet) {
  ++sent_;
  // Both are drawn for each packet, so that the next one's do not depend on
  // what became of this.
  const bool is_lost = random_.Uniform() < options_.loss;
  const double late = 2 * random_.Uniform() - 1;
  if (is_lost || cut_) {
    ++lost_;
    return;
  }
  under_way_.emplace(
      std::pair(now + options_.delay + late * options_.jitter, sent_),
      std::move(packet));
}

std::optional<Packet> LossyLink::Due(absl::Time now) {
  if (under_way_.empty() || next() > now) return std::nullopt;
  const auto first = under_way_.begin();
  Packet packet = std::move(first->second);
  under_way_.erase(first);
  return packet;
}

absl::Time LossyLink::next() const {
  return under_way_.empty() ? absl::InfiniteFuture()
                            : under_way_.begin()->first.first;
}

void LossyLink::Cut() {
  cut_ = true;
  lost_ += under_way_.size();
  under_way_.clear();
}

}  // namespace strata
