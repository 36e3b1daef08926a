#include "tools/scorecard/trading/market_feed.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"

namespace strata {
namespace {

constexpr absl::string_view kChecksumTag = "|10=";

int Checksum(absl::string_view text) {
  int sum = 0;
  for (const char c : text) sum += static_cast<unsigned char>(c);
  return sum % 256;
}

// What a line says.
struct Tick {
  int64_t symbol = -1, time_us = -1, size = -1, side = 0;
  double price = 0;
};

absl::StatusOr<Tick> Parse(absl::string_view line) {
  const auto bad = [&](absl::string_view what) {
    return absl::InvalidArgumentError(absl::StrCat(what, " in \"", line, "\""));
  };
  const size_t end = line.rfind(kChecksumTag);
  int64_t sum = -1;
  if (end == absl::string_view::npos ||
      !absl::SimpleAtoi(line.substr(end + kChecksumTag.size()), &sum) ||
      sum != Checksum(line.substr(0, end))) {
    return bad("no checksum, or a wrong one,");
  }
  Tick tick;
  absl::string_view rest = line.substr(0, end);
  while (!rest.empty()) {
    const absl::string_view field = rest.substr(0, rest.find('|'));
    rest.remove_prefix(std::min(rest.size(), field.size() + 1));
    const size_t equals = field.find('=');
    if (equals == absl::string_view::npos) return bad("a field without =");
    const absl::string_view tag = field.substr(0, equals);
    const absl::string_view value = field.substr(equals + 1);
    bool ok = true;
    if (tag == "55") ok = absl::SimpleAtoi(value, &tick.symbol);
    if (tag == "60") ok = absl::SimpleAtoi(value, &tick.time_us);
    if (tag == "271") ok = absl::SimpleAtoi(value, &tick.size);
    if (tag == "54") ok = absl::SimpleAtoi(value, &tick.side);
    if (tag == "270") {
      const auto result = std::from_chars(
          value.data(), value.data() + value.size(), tick.price);
      ok = result.ec == std::errc() && result.ptr == value.end();
    }
    if (!ok) return bad("a field that is no number");
  }
  if (tick.symbol < 0 || tick.time_us < 0 || tick.size < 0 ||
      !(tick.price > 0) || (tick.side != 1 && tick.side != 2)) {
    return bad("a field missing or out of range");
  }
  return tick;
}

}  // namespace

MarketFeed::MarketFeed(uint64_t seed, int64_t num_symbols)
    : random_(seed, HashName("market feed")), symbols_(num_symbols) {
  for (Symbol& symbol : symbols_) symbol.price = 20 + 180 * random_.Uniform();
}

std::vector<std::string> MarketFeed::NextBurst(int64_t ticks) {
  std::vector<std::string> lines;
  lines.reserve(ticks);
  for (int64_t i = 0; i < ticks; ++i) {
    const int64_t id =
        static_cast<int64_t>(random_.UniformInt(symbols_.size()));
    Symbol& symbol = symbols_[id];
    symbol.pressure = 0.95 * symbol.pressure + 0.3 * random_.Normal();
    const double shock = random_.Normal();
    symbol.volatility = std::clamp(
        0.94 * symbol.volatility + 0.06e-4 * (0.5 + shock * shock), 2e-5, 2e-3);
    symbol.price *= std::exp(symbol.volatility *
                             (shock + 0.3 * std::tanh(symbol.pressure)));
    const bool buys =
        random_.Uniform() < 0.5 + 0.4 * std::tanh(symbol.pressure);
    time_us_ += static_cast<int64_t>(random_.UniformInt(40));
    std::string line = absl::StrFormat(
        "35=X|55=%d|60=%d|270=%.4f|271=%d|54=%d", id, time_us_, symbol.price,
        100 * (1 + random_.UniformInt(20)), buys ? 1 : 2);
    absl::StrAppend(&line, kChecksumTag, Checksum(line));
    lines.push_back(std::move(line));
  }
  return lines;
}

absl::StatusOr<TickRow> FeatureDecoder::Decode(absl::string_view line) {
  const absl::StatusOr<Tick> parsed = Parse(line);
  if (!parsed.ok()) return parsed.status();
  const Tick& tick = *parsed;
  if (tick.symbol >= static_cast<int64_t>(symbols_.size())) {
    return absl::InvalidArgumentError(absl::StrCat(
        "symbol ", tick.symbol, "; want 0 to ", symbols_.size() - 1));
  }
  Symbol& s = symbols_[tick.symbol];
  const int64_t at = s.count % kHistory;
  const double price = std::log(tick.price);
  const auto size = static_cast<double>(tick.size);
  if (s.count == 0) {
    s.log_price.fill(price);
    s.fast = s.slow = price;
    s.mean_size = size;
    s.last_us = tick.time_us;
  }
  const double last = s.log_price[(at + kHistory - 1) % kHistory];
  s.log_price[at] = price;
  s.log_return[at] = price - last;
  s.signed_size[at] = tick.side == 1 ? size : -size;
  s.fast += 0.2 * (price - s.fast);
  s.slow += 0.02 * (price - s.slow);
  s.mean_size += 0.05 * (size - s.mean_size);
  // Over the last 8, 32 and 64 ticks.
  double square[3] = {}, flow[3] = {}, volume[3] = {};
  for (int64_t i = 0; i < kHistory; ++i) {
    const int64_t j = (at + kHistory - i) % kHistory;
    const double r = s.log_return[j], v = s.signed_size[j];
    for (int w = i < 8 ? 0 : i < 32 ? 1 : 2; w < 3; ++w) {
      square[w] += r * r;
      flow[w] += v;
      volume[w] += std::abs(v);
    }
  }
  const auto back = [&](int64_t ticks) {
    return price - s.log_price[(at + kHistory - ticks) % kHistory];
  };
  const double scale = std::sqrt(square[2] / kHistory) + 1e-6;
  const double values[kNumFeatures] = {
      s.log_return[at] / scale,
      back(5) / scale,
      back(20) / scale,
      back(60) / scale,
      (s.fast - s.slow) / scale,
      (price - s.slow) / scale,
      std::sqrt(square[0] / 8) / scale,
      std::sqrt(square[1] / 32) / scale,
      1e3 * scale,
      flow[0] / (volume[0] + 1),
      flow[1] / (volume[1] + 1),
      flow[2] / (volume[2] + 1),
      std::log((size + 1) / (s.mean_size + 1)),
      tick.side == 1 ? 1.0 : -1.0,
      std::log1p(static_cast<double>(tick.time_us - s.last_us)) / 8,
      std::min(1.0, static_cast<double>(s.count) / kHistory)};
  s.last_us = tick.time_us;
  ++s.count;
  TickRow row;
  row.symbol = static_cast<int32_t>(tick.symbol);
  for (int64_t i = 0; i < kNumFeatures; ++i) {
    row.features[i] = static_cast<float>(std::clamp(values[i], -8.0, 8.0));
  }
  return row;
}

}  // namespace strata
