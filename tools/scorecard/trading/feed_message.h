// A message of a market data feed, as text: an incremental refresh after FIX
// 4.4, whose fields are tag=value and end with SOH (here |):
//
//   8=FIX.4.4|9=LENGTH|35=X|34=SEQUENCE|60=TIME|55=SYMBOL|268=ENTRIES|
//     279=ACTION|269=KIND|270=PRICE|271=SIZE|   for each entry
//   10=SUM|
//
// LENGTH is the bytes between its own end and "10=", SUM the sum of all bytes
// before "10=" modulo 256, in three digits. One message is one tick.

#ifndef TOOLS_SCORECARD_TRADING_FEED_MESSAGE_H_
#define TOOLS_SCORECARD_TRADING_FEED_MESSAGE_H_

#include <cstdint>
#include <string>

#include "absl/container/inlined_vector.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace strata {

struct FeedEntry {
  enum class Action : int8_t { kNew, kChange, kDelete };
  enum class Kind : int8_t { kBid, kOffer, kTrade };
  Action action = Action::kNew;
  Kind kind = Kind::kBid;
  int64_t price = 0;  // In cents: the feed's smallest step.
  int64_t size = 0;   // Of a level what is there now; of a trade what changed
                      // hands.
};

struct FeedMessage {
  int64_t sequence = 0;
  int64_t time_us = 0;
  absl::string_view symbol;  // Into the text.
  absl::InlinedVector<FeedEntry, 6> entries;
};

std::string FormatMessage(const FeedMessage& message);

// Returns INVALID_ARGUMENT if the length or the checksum is wrong, a field is
// missing, out of its place or no number, or prices are not positive.
absl::StatusOr<FeedMessage> ParseMessage(absl::string_view text);

}  // namespace strata

#endif  // TOOLS_SCORECARD_TRADING_FEED_MESSAGE_H_
