#include "tools/scorecard/trading/feed_message.h"

#include <cstdint>
#include <numeric>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"

namespace strata {
namespace {

constexpr char kEnd = '\x01';
constexpr absl::string_view kBegin =
    "8=FIX.4.4\x01"
    "9=";
constexpr int64_t kMaxEntries = 64;
// "10=123" and its end.
constexpr size_t kTrailerBytes = 7;

int Checksum(absl::string_view text) {
  return std::accumulate(
             text.begin(), text.end(), 0,
             [](int sum, char c) { return sum + static_cast<uint8_t>(c); }) %
         256;
}

// Reads fields one behind the other.
class Fields {
 public:
  explicit Fields(absl::string_view text) : rest_(text) {}

  bool ok() const { return ok_; }
  bool AtEnd() const { return rest_.empty(); }

  // The value of the next field, whose tag must be `tag` ("34=").
  absl::string_view Text(absl::string_view tag) {
    const size_t end = rest_.find(kEnd);
    if (!absl::StartsWith(rest_, tag) || end == absl::string_view::npos) {
      ok_ = false;
      return "";
    }
    const absl::string_view value = rest_.substr(tag.size(), end - tag.size());
    rest_.remove_prefix(end + 1);
    return value;
  }

  // A number of at most 15 digits.
  int64_t Int(absl::string_view tag) { return Digits(Text(tag)); }

  // Of at most two digits behind the point, in hundredths.
  int64_t Price(absl::string_view tag) {
    const absl::string_view value = Text(tag);
    const size_t point = value.find('.');
    if (point == absl::string_view::npos) return 100 * Digits(value);
    const absl::string_view cents = value.substr(point + 1);
    if (cents.empty() || cents.size() > 2) ok_ = false;
    return 100 * Digits(value.substr(0, point)) +
           Digits(cents) * (cents.size() == 1 ? 10 : 1);
  }

  // One of the digits below `count`.
  int Choice(absl::string_view tag, int count) {
    const int64_t value = Int(tag);
    if (value >= count) ok_ = false;
    return ok_ ? static_cast<int>(value) : 0;
  }

 private:
  int64_t Digits(absl::string_view text) {
    if (text.empty() || text.size() > 15) ok_ = false;
    int64_t value = 0;
    for (const char c : text) {
      if (!absl::ascii_isdigit(static_cast<unsigned char>(c))) ok_ = false;
      value = 10 * value + (c - '0');
    }
    return ok_ ? value : 0;
  }

  absl::string_view rest_;
  bool ok_ = true;
};

absl::Status Bad(absl::string_view what, absl::string_view text) {
  return absl::InvalidArgumentError(
      absl::StrCat(what, " in \"", absl::CHexEscape(text), "\""));
}

}  // namespace

std::string FormatMessage(const FeedMessage& message) {
  std::string body = absl::StrFormat(
      "35=X\x01"
      "34=%d\x01"
      "60=%d\x01"
      "55=%s\x01"
      "268=%d\x01",
      message.sequence, message.time_us, message.symbol,
      message.entries.size());
  for (const FeedEntry& entry : message.entries) {
    absl::StrAppendFormat(&body,
                          "279=%d\x01"
                          "269=%d\x01"
                          "270=%d.%02d\x01"
                          "271=%d\x01",
                          static_cast<int>(entry.action),
                          static_cast<int>(entry.kind), entry.price / 100,
                          entry.price % 100, entry.size);
  }
  std::string text =
      absl::StrCat(kBegin, body.size(), absl::string_view(&kEnd, 1), body);
  absl::StrAppendFormat(&text, "10=%03d\x01", Checksum(text));
  return text;
}

absl::StatusOr<FeedMessage> ParseMessage(absl::string_view text) {
  if (!absl::StartsWith(text, kBegin) ||
      text.size() < kBegin.size() + kTrailerBytes) {
    return Bad("no FIX 4.4 message", text);
  }
  const size_t end = text.size() - kTrailerBytes;
  Fields trailer(text.substr(end));
  const int64_t sum = trailer.Int("10=");
  if (!trailer.ok() || sum != Checksum(text.substr(0, end))) {
    return Bad("no checksum, or a wrong one,", text);
  }
  Fields fields(text.substr(kBegin.size() - 2, end - (kBegin.size() - 2)));
  const absl::string_view length = fields.Text("9=");
  const auto body =
      static_cast<int64_t>(end - kBegin.size() - length.size() - 1);
  if (!fields.ok() || length != absl::StrCat(body)) {
    return Bad("a wrong length", text);
  }
  FeedMessage message;
  if (fields.Text("35=") != "X") return Bad("no incremental refresh", text);
  message.sequence = fields.Int("34=");
  message.time_us = fields.Int("60=");
  message.symbol = fields.Text("55=");
  const int64_t num_entries = fields.Int("268=");
  if (num_entries > kMaxEntries) return Bad("too many entries", text);
  for (int64_t i = 0; i < num_entries && fields.ok(); ++i) {
    FeedEntry& entry = message.entries.emplace_back();
    entry.action = static_cast<FeedEntry::Action>(fields.Choice("279=", 3));
    entry.kind = static_cast<FeedEntry::Kind>(fields.Choice("269=", 3));
    entry.price = fields.Price("270=");
    entry.size = fields.Int("271=");
    if (fields.ok() && entry.price == 0) return Bad("a price of 0", text);
  }
  if (!fields.ok() || !fields.AtEnd()) {
    return Bad("a field missing, out of its place or no number", text);
  }
  return message;
}

}  // namespace strata
