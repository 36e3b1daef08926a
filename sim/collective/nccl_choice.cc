#include "sim/collective/nccl_choice.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "absl/functional/function_ref.h"
#include "sim/cluster/cluster.pb.h"

namespace strata::sim {
namespace {

// Microseconds: NCCL's own numbers, not measurements.
struct Estimate {
  NcclProtocol protocol;
  double base_us;
  double step_us;
  double gb_per_s;
};

constexpr double kLargestPart = 16 << 20;
constexpr double kLargestLlPart = 16 << 10;

// Channels of messages: the next power of two.
int MessageChannelsOfAll(const NcclTuner& tuner) {
  int most = 1;
  while (most < tuner.channels()) most *= 2;
  return most;
}

// How far on the ranks are that a rank sends to, itself first, in the order in
// which NCCL gives them channels: sums of 0, 1, 2, ... modulo a power of two,
// without those of no rank.
std::vector<int> PeerOrder(int num_ranks) {
  int period = 1;
  while (period < num_ranks) period *= 2;
  std::vector<int> order;
  for (int i = 0, offset = 0; i < period; ++i) {
    offset = (offset + i) % period;
    if (offset < num_ranks) order.push_back(offset);
  }
  return order;
}

// The bits of `i` below `size`, a power of two, in reverse.
int ReversedBits(int i, int size) {
  int reversed = 0;
  for (int bit = 1; bit < size; bit *= 2) {
    reversed = 2 * reversed + (i & bit ? 1 : 0);
  }
  return reversed;
}

}  // namespace

NcclProtocol RingProtocol(const NcclTuner& tuner, double steps, double bytes) {
  const double ring = tuner.ring_gb_per_s();
  const std::array<Estimate, 3> estimates = {{
      {NcclProtocol::kLl, 6.6, 0.6, std::min(tuner.ll_gb_per_s(), 0.5 * ring)},
      {NcclProtocol::kLl128, 14, 1.9, 0.92 * ring},
      {NcclProtocol::kSimple, 8.4, 3.4, ring},
  }};
  const auto time_us = [&](const Estimate& of) {
    return of.base_us + steps * of.step_us + bytes / (of.gb_per_s * 1e3);
  };
  return std::min_element(estimates.begin(), estimates.end(),
                          [&](const Estimate& a, const Estimate& b) {
                            return time_us(a) < time_us(b);
                          })
      ->protocol;
}

int MessageChannels(const NcclTuner& tuner, int num_ranks, double bytes,
                    double least_part) {
  if (tuner.channels() == 0) return 1;
  const int most = MessageChannelsOfAll(tuner);
  int of_peer = most;
  while (of_peer > 1 && of_peer * num_ranks > most) of_peer /= 2;
  const double parts = std::max(1.0, std::ceil(bytes / least_part));
  int channels = std::min<double>(of_peer, parts);
  while (bytes / channels > kLargestPart && channels <= most / 2) channels *= 2;
  return channels;
}

bool TakesFlaggedWords(const NcclTuner& tuner, int num_ranks, double bytes,
                       double ll_part) {
  const int channels =
      ll_part < kLeastPart
          ? MessageChannelsOfAll(tuner)
          : MessageChannels(tuner, num_ranks, bytes, kLeastPart);
  return bytes <= kLargestLlPart * channels;
}

ChannelLoad LoadOfChannels(const NcclTuner& tuner, int num_ranks,
                           bool all_alike, double own_share,
                           absl::FunctionRef<double(int from, int to)> bytes) {
  const int most = MessageChannelsOfAll(tuner);
  const std::vector<int> order = PeerOrder(num_ranks);
  ChannelLoad load;
  for (int rank = 0; rank < (all_alike ? 1 : num_ranks); ++rank) {
    std::vector<double> of_channel(most, 0);
    const auto add = [&](int round, double message, double share) {
      if (message <= 0) return;
      const int channels =
          MessageChannels(tuner, num_ranks, message, kLeastPart);
      const double part = message / channels;
      const int first = ReversedBits(round, most);
      for (int i = 0; i < channels; ++i) {
        of_channel[(first + i) % most] += share * part;
      }
      if (round > 0) load.largest_part = std::max(load.largest_part, part);
    };
    add(0, bytes(rank, rank), own_share);
    for (int round = 1; round < num_ranks; ++round) {
      const int to = (rank + order[round]) % num_ranks;
      const int from = (rank + num_ranks - order[round]) % num_ranks;
      add(round, bytes(rank, to), 0.5);
      add(round, bytes(from, rank), 0.5);
    }
    load.busiest = std::max(
        load.busiest, *std::max_element(of_channel.begin(), of_channel.end()));
  }
  return load;
}

}  // namespace strata::sim
