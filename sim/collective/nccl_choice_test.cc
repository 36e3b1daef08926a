#include "sim/collective/nccl_choice.h"

#include <cmath>
#include <vector>

#include "absl/functional/function_ref.h"
#include "gtest/gtest.h"
#include "sim/cluster/cluster.pb.h"
#include "sim/cluster/load_cluster.h"

namespace strata::sim {
namespace {

constexpr double kMiB = 1 << 20;

NcclTuner Tuner() { return NodePreset("h100")->tuner(); }

// Of a buffer of `bytes` over n ranks: an all-gather or a reduce-scatter.
NcclProtocol OfGather(int n, double bytes) {
  return RingProtocol(Tuner(), n - 1, (n - 1) * bytes / n);
}
NcclProtocol OfReduce(int n, double bytes) {
  return RingProtocol(Tuner(), 2 * (n - 1), 2 * (n - 1) * bytes / n);
}

// Over four: LL 6.6 + 3 * 0.6 = 8.4 us, and 141 GB/s; SIMPLE 8.4 + 3 * 3.4 =
// 18.6, and 360. They meet at 10.2 us / (1 / 141 - 1 / 360) on an edge: 2.36
// MB, or 3.15 of the buffer. LL128, 19.7 us and 331 GB/s, is never the best.
TEST(RingProtocolTest, LeavesLlWhereItsOwnModelSaysSo) {
  EXPECT_EQ(OfGather(4, 3.14e6), NcclProtocol::kLl);
  EXPECT_EQ(OfGather(4, 3.16e6), NcclProtocol::kSimple);
  // 11.8 - 7.2 us over the same: 1.066 MB, or 2.13 of the buffer.
  EXPECT_EQ(OfGather(2, 2 * kMiB), NcclProtocol::kLl);
  EXPECT_EQ(OfGather(2, 2.14e6), NcclProtocol::kSimple);
}

// Six steps are 10.2 us of LL, 25.4 of LL128, 28.8 of SIMPLE.
TEST(RingProtocolTest, TakesLl128BetweenTheOthersWhereStepsAreMany) {
  EXPECT_EQ(OfReduce(4, 2 * kMiB), NcclProtocol::kLl);
  EXPECT_EQ(OfReduce(4, 4 * kMiB), NcclProtocol::kLl128);
  EXPECT_EQ(OfReduce(4, 8 * kMiB), NcclProtocol::kLl128);
  EXPECT_EQ(OfReduce(4, 16 * kMiB), NcclProtocol::kSimple);
  EXPECT_EQ(OfReduce(2, 2 * kMiB), NcclProtocol::kSimple);
}

// 24 channels are 32 of messages; of four ranks each has eight for a peer.
TEST(MessageChannelsTest, GrowWithBytesAndAreSharedOutAmongPeers) {
  const auto channels = [](int ranks, double bytes) {
    return MessageChannels(Tuner(), ranks, bytes, kLeastPart);
  };

  EXPECT_EQ(channels(4, 1), 1);
  EXPECT_EQ(channels(4, kLeastPart), 1);
  EXPECT_EQ(channels(4, kLeastPart + 1), 2);
  EXPECT_EQ(channels(4, 64 * kMiB), 8);
  EXPECT_EQ(channels(2, 64 * kMiB), 16);
  EXPECT_EQ(channels(8, 64 * kMiB), 4);
  EXPECT_EQ(channels(64, 1 * kMiB), 1);
  // More than 16 MiB a channel: twice as many, up to all.
  EXPECT_EQ(channels(4, 128 * kMiB), 8);
  EXPECT_EQ(channels(4, 128 * kMiB + 1), 16);
  EXPECT_EQ(channels(4, 256 * kMiB + 1), 32);
  EXPECT_EQ(channels(2, 1024 * kMiB), 32);
}

// Up to 2.28 512 KiB of 32 channels; since, 16 KiB of a message's own, which
// has one for 64 KiB.
TEST(TakesFlaggedWordsTest, IsARuleOfBytesAndOfNcclsRelease) {
  EXPECT_TRUE(TakesFlaggedWords(Tuner(), 4, 512 * 1024, 8 * 1024));
  EXPECT_FALSE(TakesFlaggedWords(Tuner(), 4, 512 * 1024 + 1, 8 * 1024));
  EXPECT_TRUE(TakesFlaggedWords(Tuner(), 4, 16 * 1024, kLeastPart));
  EXPECT_FALSE(TakesFlaggedWords(Tuner(), 4, 16 * 1024 + 1, kLeastPart));
}

std::vector<PlacedMessage> Placed(
    int num_ranks, bool all_alike,
    absl::FunctionRef<double(int from, int to)> bytes) {
  return PlaceMessages(Tuner(), num_ranks, all_alike, /*ll_part=*/8 << 10,
                       bytes);
}

// From rank 0 to `to`: all its channels, otherwise what the first have.
PlacedMessage To(int to, const std::vector<PlacedMessage>& placed) {
  PlacedMessage all;
  all.channels = 0;
  for (const PlacedMessage& message : placed) {
    if (message.from != 0 || message.to != to) continue;
    const int channels = all.channels + message.channels;
    if (all.channels == 0) all = message;
    all.channels = channels;
  }
  return all;
}

// Messages of four ranks begin at channels 0 (to itself), 16 (to the next), 8
// (to the third on) and 24 (to the second). Of a block's 20 warps, 19 are used:
// nine receive, nine send and one tells; all copy what a rank keeps.
TEST(PlaceMessagesTest, MessagesShareChannelsAndWarpsWhereTheyAreLarge) {
  const auto even = [](double bytes) {
    return Placed(4, /*all_alike=*/true, [=](int, int) { return bytes; });
  };

  const std::vector<PlacedMessage> apart = even(64 * kMiB);
  ASSERT_EQ(apart.size(), 4u);
  EXPECT_EQ(To(1, apart).channels, 8);
  EXPECT_EQ(To(1, apart).part, 8 * kMiB);
  EXPECT_EQ(To(1, apart).send_warps, kLoneWarps);
  EXPECT_EQ(To(1, apart).receive_warps, kLoneWarps);
  EXPECT_EQ(To(0, apart).send_warps, 19);
  // Sixteen channels each are two messages a channel: of ten warps four
  // receive, four send and one tells.
  const std::vector<PlacedMessage> shared = even(160 * kMiB);
  EXPECT_EQ(To(2, shared).part, 10 * kMiB);
  EXPECT_EQ(To(2, shared).send_warps, 4);
  EXPECT_EQ(To(2, shared).receive_warps, 4);
  EXPECT_EQ(To(0, shared).send_warps, 9);
  // All 32: four messages, of five warps two receive, two send, one tells.
  EXPECT_EQ(To(3, even(320 * kMiB)).send_warps, 2);
  EXPECT_EQ(To(3, even(320 * kMiB)).turns, 1);
}

// Of three ranks, all send 168 MiB to rank 0, which are 16 channels of 10.5
// MiB, and 96 MiB to others, 8 of 12. Rank 1 sends to rank 0 by channels 8 to
// 23, of which 8 to 15 receive as well, and to rank 2 by 16 to 23, where its
// message to rank 0, which comes without one back, has eight warps, the other
// four. So twelve send until the eight have moved 10.5 MiB.
TEST(PlaceMessagesTest, ChannelsOfAMessageDifferByWhatTheySendBesides) {
  const std::vector<PlacedMessage> placed =
      Placed(3, /*all_alike=*/false,
             [](int, int to) { return to == 0 ? 168 * kMiB : 96 * kMiB; });
  std::vector<PlacedMessage> hot;
  std::vector<PlacedMessage> other;
  for (const PlacedMessage& message : placed) {
    if (message.from != 1 || message.to == 1) continue;
    (message.to == 0 ? hot : other).push_back(message);
  }

  ASSERT_EQ(hot.size(), 2u);
  for (const PlacedMessage& half : hot) {
    EXPECT_EQ(half.channels, 8);
    EXPECT_EQ(half.part, 10.5 * kMiB);
    EXPECT_EQ(half.bytes, 84 * kMiB);
  }
  EXPECT_EQ(hot[0].send_warps, kLoneWarps);
  EXPECT_EQ(hot[0].receive_warps, 4);  // Beside what rank 0 keeps.
  EXPECT_DOUBLE_EQ(hot[0].paced, 10.5 * kMiB);
  EXPECT_EQ(hot[1].send_warps, 8);
  // Bytes of a warp, and bytes of nine while twelve move one each.
  EXPECT_NEAR(hot[1].paced, 10.5 * kMiB / 8 * std::sqrt(9.0 * 12), 1);
  ASSERT_EQ(other.size(), 1u);
  EXPECT_EQ(other[0].send_warps, 4);
  EXPECT_NEAR(other[0].paced,
              hot[1].paced + (12.0 / 4 - 10.5 / 8) * kMiB * std::sqrt(9.0 * 4),
              1);
}

// Rank 0 sends 64 MiB to rank 1 and gets nothing: both ends use 19 warps, of
// which the sender's last tells.
TEST(PlaceMessagesTest, AChannelOfOneDirectionHasAllWarps) {
  const std::vector<PlacedMessage> placed = Placed(
      2, /*all_alike=*/false,
      [](int from, int to) { return from == 0 && to == 1 ? 64 * kMiB : 0.0; });

  ASSERT_EQ(placed.size(), 1u);
  EXPECT_EQ(placed[0].send_warps, 18);
  EXPECT_EQ(placed[0].receive_warps, 19);
}

// Up to 512 KiB a message goes as words, by a channel for each 8 KiB, what
// another of the same exchange does.
TEST(PlaceMessagesTest, EachMessageHasItsOwnProtocol) {
  const std::vector<PlacedMessage> placed =
      Placed(3, /*all_alike=*/false,
             [](int, int to) { return to == 1 ? 32.0 * 1024 : 4 * kMiB; });

  EXPECT_TRUE(To(1, placed).flagged_words);
  EXPECT_EQ(To(1, placed).channels, 4);
  EXPECT_FALSE(To(2, placed).flagged_words);
  EXPECT_EQ(To(2, placed).channels, 8);
  EXPECT_FALSE(To(0, placed).flagged_words);  // What it keeps is copied.
}

// Sixty-four ranks' messages have one channel each of 32, so two a channel;
// grown to all 32 channels they are 64 a channel, eight at a time.
TEST(PlaceMessagesTest, ManyMessagesOfAChannelTakeTurns) {
  const auto turns = [](double bytes) {
    return To(1,
              Placed(64, /*all_alike=*/true, [=](int, int) { return bytes; }))
        .turns;
  };

  EXPECT_EQ(turns(1 * kMiB), 1);
  EXPECT_EQ(turns(512 * kMiB), 8);
}

TEST(MessageChannelsTest, AreOneWhereNothingIsKnown) {
  EXPECT_EQ(MessageChannels(NcclTuner(), 4, 64 * kMiB, kLeastPart), 1);
}

}  // namespace
}  // namespace strata::sim
