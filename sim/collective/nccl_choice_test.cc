#include "sim/collective/nccl_choice.h"

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

// Messages of four ranks begin at channels 0 (to itself), 16 (to the next), 8
// (to the third on) and 24 (to the second).
TEST(LoadOfChannelsTest, MessagesShareChannelsWhereTheyAreLarge) {
  const auto even = [](double bytes) {
    return LoadOfChannels(Tuner(), 4, /*all_alike=*/true, /*own_share=*/0.5,
                          [&](int, int) { return bytes; });
  };

  // Eight channels each: no two messages have one in common.
  EXPECT_EQ(even(64 * kMiB).largest_part, 8 * kMiB);
  EXPECT_EQ(even(64 * kMiB).busiest, 8 * kMiB);
  // Sixteen: 16 to 23 have the next rank's and the third one's, 24 to 31 the
  // next one's and the second one's, the others half of what is kept.
  EXPECT_EQ(even(160 * kMiB).largest_part, 10 * kMiB);
  EXPECT_EQ(even(160 * kMiB).busiest, 20 * kMiB);
  // All 32: three messages, and half of what is kept.
  EXPECT_EQ(even(320 * kMiB).busiest, 35 * kMiB);
}

// Three ranks share out 32 channels as four do: each has a part of each.
TEST(LoadOfChannelsTest, TakesRanksThatAreNoPowerOfTwo) {
  const ChannelLoad load = LoadOfChannels(
      Tuner(), 3, /*all_alike=*/false, /*own_share=*/0.5, [](int from, int to) {
        return from == 2 && to == 0 ? 64 * kMiB : 1.0 * kMiB;
      });

  EXPECT_EQ(load.largest_part, 8 * kMiB);
  // Rank 2 sends it and receives 1 MiB of rank 1; rank 0 likewise.
  EXPECT_EQ(load.busiest, 4 * kMiB + 64 * 1024);
}

// Rank 1 gets 64 MiB of ranks 0 and 2, and sends nothing: its channels are busy
// half of their time.
TEST(LoadOfChannelsTest, AChannelSendsAndReceivesAtOnce) {
  const auto load = [](bool both) {
    return LoadOfChannels(Tuner(), 4, /*all_alike=*/false, 0.5,
                          [&](int from, int to) {
                            const bool sends = both ? from % 2 != to % 2
                                                    : from % 2 == 0 && to == 1;
                            return sends ? 64 * kMiB : 0.0;
                          })
        .busiest;
  };

  EXPECT_EQ(load(false), 4 * kMiB);
  EXPECT_EQ(load(true), 8 * kMiB);
}

TEST(MessageChannelsTest, AreOneWhereNothingIsKnown) {
  EXPECT_EQ(MessageChannels(NcclTuner(), 4, 64 * kMiB, kLeastPart), 1);
}

}  // namespace
}  // namespace strata::sim
