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

constexpr int kMostWarps = 20;          // Of a block.
constexpr int kMostMessagesAtOnce = 8;  // Of a block.
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

struct WarpShare {
  int send = 0;     // That move bytes; from three on one more only tells.
  int receive = 0;  // That move bytes.
  int turns = 1;
};

// A message that a channel sends.
struct Send {
  int place = 0;  // Of its `paced`.
  double part = 0;
  int warps = 0;
};

// Of messages that a channel sends at once, when each is sent.
void Pace(std::vector<Send>& sends, std::vector<double>& paced) {
  int warps = 0;
  for (const Send& send : sends) warps += send.warps;
  // All warps move as many bytes, so those with the least go first.
  if (sends.size() > 1) {
    std::sort(sends.begin(), sends.end(), [](const Send& a, const Send& b) {
      return a.part * b.warps < b.part * a.warps;
    });
  }
  double moved = 0;  // By each of the warps.
  double time = 0;
  for (const Send& send : sends) {
    const double of_warp = send.part / send.warps;
    time += (of_warp - moved) * std::sqrt(static_cast<double>(kLoneWarps) *
                                          static_cast<double>(warps));
    moved = of_warp;
    warps -= send.warps;
    paced[send.place] = time;
  }
  sends.clear();
}

// What a message has of a channel with `messages`; `both`: one is sent and one
// received.
WarpShare SharedOut(int messages, bool both) {
  WarpShare share;
  share.turns = (messages + kMostMessagesAtOnce - 1) / kMostMessagesAtOnce;
  const int warps = kMostWarps / std::min(messages, kMostMessagesAtOnce);
  // Reading takes as many as writing, which from five on has the one that
  // tells besides.
  const int tells = warps > 4 ? 1 : 0;
  share.receive = (warps - tells) / 2;
  share.send = share.receive + tells;
  if (!both) share.send = share.receive = share.send + share.receive;
  if (share.send >= 3) --share.send;
  return share;
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

std::vector<PlacedMessage> PlaceMessages(
    const NcclTuner& tuner, int num_ranks, bool all_alike, double ll_part,
    absl::FunctionRef<double(int from, int to)> bytes) {
  const int most = MessageChannelsOfAll(tuner);
  const std::vector<int> order = PeerOrder(num_ranks);
  std::vector<int> first_of(num_ranks);  // Channel of a round's messages.
  for (int round = 0; round < num_ranks; ++round) {
    first_of[round] = ReversedBits(round, most);
  }
  const auto place = [&](int from, int to) {
    PlacedMessage message;
    message.from = from;
    message.to = to;
    message.bytes = bytes(from, to);
    message.flagged_words =
        from != to &&
        TakesFlaggedWords(tuner, num_ranks, message.bytes, ll_part);
    message.channels =
        message.bytes <= 0
            ? 0
            : MessageChannels(tuner, num_ranks, message.bytes,
                              message.flagged_words ? ll_part : kLeastPart);
    if (message.channels > 0) message.part = message.bytes / message.channels;
    return message;
  };

  // Of each rank that is looked at and each round: what it sends and receives.
  const int num_placed = all_alike ? 1 : num_ranks;
  std::vector<PlacedMessage> sent(num_placed * num_ranks);
  std::vector<PlacedMessage> received(num_placed * num_ranks);
  std::vector<int> messages_of(num_placed * most, 0);  // [rank, channel]
  for (int rank = 0; rank < num_placed; ++rank) {
    for (int round = 0; round < num_ranks; ++round) {
      const int at = rank * num_ranks + round;
      sent[at] = place(rank, (rank + order[round]) % num_ranks);
      received[at] = place((rank + num_ranks - order[round]) % num_ranks, rank);
      const int first = first_of[round];
      const int channels = std::max(sent[at].channels, received[at].channels);
      for (int i = 0; i < channels; ++i) {
        ++messages_of[rank * most + (first + i) % most];
      }
    }
  }

  // The i-th channel of a round's messages; beyond `both` it sends alone, or
  // receives alone.
  const auto share = [&](int rank, int round, int i, int both) {
    const int channel = (first_of[round] + i) % most;
    return SharedOut(messages_of[rank * most + channel], i < both);
  };

  // [rank, round, channel of the message]
  std::vector<double> paced(num_placed * num_ranks * most, 0);
  std::vector<Send> sends;
  for (int rank = 0; rank < num_placed; ++rank) {
    for (int channel = 0; channel < most; ++channel) {
      int messages = 0;
      for (int round = 0; round < num_ranks; ++round) {
        const int at = rank * num_ranks + round;
        const int i = (channel + most - first_of[round]) % most;
        if (i >= std::max(sent[at].channels, received[at].channels)) continue;
        if (i < sent[at].channels) {
          const bool is_copy = round == 0;
          const WarpShare of =
              share(rank, round, i, is_copy ? 0 : received[at].channels);
          const Send send{at * most + i, sent[at].part,
                          is_copy ? of.receive : of.send};
          sends.push_back(send);
          // A copy stays on the GPU, and is in no other's way.
          if (is_copy) Pace(sends, paced);
        }
        if (++messages % kMostMessagesAtOnce == 0) Pace(sends, paced);
      }
      Pace(sends, paced);
    }
  }

  std::vector<PlacedMessage> placed;
  for (int rank = 0; rank < num_placed; ++rank) {
    for (int round = 0; round < num_ranks; ++round) {
      const int at = rank * num_ranks + round;
      const PlacedMessage& message = sent[at];
      const int to = all_alike ? 0 : message.to;
      const PlacedMessage& out = sent[to * num_ranks + round];
      const bool is_copy = round == 0;
      const size_t first = placed.size();
      for (int i = 0; i < message.channels; ++i) {
        const WarpShare sender =
            share(rank, round, i, is_copy ? 0 : received[at].channels);
        const WarpShare receiver =
            share(to, round, i, is_copy ? 0 : out.channels);
        PlacedMessage one = message;
        one.channels = 1;
        one.bytes = message.part;
        one.send_warps = is_copy ? sender.receive : sender.send;
        one.receive_warps = receiver.receive;
        one.paced = paced[at * most + i];
        one.turns = std::max(sender.turns, receiver.turns);
        const auto alike =
            std::find_if(placed.begin() + first, placed.end(),
                         [&](const PlacedMessage& other) {
                           return other.paced == one.paced &&
                                  other.send_warps == one.send_warps &&
                                  other.receive_warps == one.receive_warps &&
                                  other.turns == one.turns;
                         });
        if (alike == placed.end()) {
          placed.push_back(one);
        } else {
          ++alike->channels;
          alike->bytes += message.part;
        }
      }
    }
  }
  return placed;
}

}  // namespace strata::sim
