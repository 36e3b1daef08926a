#include "sim/collective/message_exchange.h"

#include <cmath>
#include <vector>

#include "gtest/gtest.h"
#include "sim/cluster/cluster.pb.h"

namespace strata::sim {
namespace {

constexpr double kMiB = 1 << 20;
constexpr double kPort = 100e9;

// 32 channels of messages, no cost but what a test sets.
NodeConfig Node() {
  NodeConfig node;
  node.mutable_tuner()->set_channels(32);
  NcclConstants::PointToPoint& constants =
      *node.mutable_nccl()->mutable_point_to_point();
  constants.set_efficiency(1);
  constants.set_ll_part_kib(8);
  constants.set_ll_gb_per_s(1e6);
  return node;
}

NcclConstants::PointToPoint& PointToPoint(NodeConfig& node) {
  return *node.mutable_nccl()->mutable_point_to_point();
}

// `matrix`: bytes of each pair.
double Seconds(const NodeConfig& node,
               const std::vector<std::vector<double>>& matrix) {
  MessageExchange exchange;
  exchange.num_ranks = matrix.size();
  exchange.port_rate.assign(matrix.size(), kPort);
  const ExchangeSeconds seconds =
      SecondsOfExchange(node, exchange, /*peers=*/1,
                        [&](int from, int to) { return matrix[from][to]; });
  return seconds.latency + seconds.bytes;
}

std::vector<std::vector<double>> Even(int n, double bytes) {
  return std::vector<std::vector<double>>(n, std::vector<double>(n, bytes));
}

// What is received takes 9 / 8 of its bytes of the way in and 1 / 8 of the way
// out; so a port that does both has 10 / 8 of them.
TEST(MessageExchangeTest, APortThatOnlyReceivesIsFaster) {
  NodeConfig node = Node();
  PointToPoint(node).set_packet_overhead(0.125);
  const double bytes = 64 * kMiB;

  EXPECT_NEAR(Seconds(node, {{0, bytes}, {0, 0}}), 1.125 * bytes / kPort,
              1e-12);
  EXPECT_NEAR(Seconds(node, {{0, bytes}, {bytes, 0}}), 1.25 * bytes / kPort,
              1e-12);
}

// Rank 0 sends 32 MiB, 2 MiB a channel and 200 us; rank 1 half as much. Each
// begins anew when it has the other's: the mean of 100 + 209.7 us and 100 +
// 104.9 us; and no less than the longer way without its launch.
TEST(MessageExchangeTest, RanksThatAreHeldUpByEachOtherTakeTheMean) {
  NodeConfig node = Node();
  PointToPoint(node).set_channel_gb_per_s(10);
  PointToPoint(node).set_launch_us(100);
  const double longer = 2 * kMiB / 10e9;
  const std::vector<std::vector<double>> uneven = {{0, 32 * kMiB},
                                                   {16 * kMiB, 0}};
  const auto with_port = [](double channels, double bytes) {
    return Together(bytes / kPort, channels, 4);
  };
  const double out = with_port(longer, 32 * kMiB);
  const double back = with_port(longer / 2, 16 * kMiB);

  EXPECT_NEAR(Seconds(node, uneven), 100e-6 + (out + back) / 2, 1e-9);
  PointToPoint(node).set_launch_us(0);
  EXPECT_NEAR(Seconds(node, uneven), out, 1e-9);
}

TEST(MessageExchangeTest, AChannelThatSharesItsWarpsIsSlower) {
  NodeConfig node = Node();
  PointToPoint(node).set_channel_gb_per_s(0.1);
  // 32 MiB of each of 32 channels, with half of it kept: four warps, not nine.
  const double alone = Seconds(node, {{0, 1024 * kMiB}, {1024 * kMiB, 0}});
  const double kept =
      Seconds(node, {{512 * kMiB, 1024 * kMiB}, {1024 * kMiB, 512 * kMiB}});

  EXPECT_NEAR(kept / alone, std::sqrt(9.0 / 4), 1e-3);
}

// Each rank sends 512 MiB by 32 channels of 16 MiB and keeps 64 MiB, by 16 of
// them, where four warps send, not nine: those take half as long again. Nine
// take here as long as a port for half of the bytes; so all ask for 1 + 2 / 3
// of it, and the slower ones, from then on, for 2 / 3.
TEST(MessageExchangeTest, SlowChannelsHaveThePortToThemselvesInTheEnd) {
  NodeConfig node = Node();
  const double half = 256 * kMiB / kPort;
  PointToPoint(node).set_channel_gb_per_s(16 * kMiB / half / 1e9);
  const double kept = 64 * kMiB;
  const double sent = 512 * kMiB;

  EXPECT_NEAR(
      Seconds(node, {{kept, sent}, {sent, kept}}),
      half * Together(1, 5.0 / 3, 4) + half / 2 * Together(1, 2.0 / 3, 4),
      1e-9);
}

// 2 MiB and the buffer's slots fit the L2, 512 MiB do not.
TEST(MessageExchangeTest, ChannelsReadFasterWhatTheCacheHolds) {
  const auto with_speedup = [](double bytes, double speedup) {
    NodeConfig node = Node();
    node.mutable_gpu()->set_l2_mib(50);
    node.mutable_nccl()->set_cached_speedup(speedup);
    PointToPoint(node).set_channel_gb_per_s(0.1);
    return Seconds(node, {{0, bytes}, {0, 0}});
  };

  EXPECT_NEAR(with_speedup(2 * kMiB, 0) / with_speedup(2 * kMiB, 2), 2, 1e-3);
  EXPECT_NEAR(with_speedup(512 * kMiB, 0) / with_speedup(512 * kMiB, 2), 1,
              1e-3);
}

// Ports that channels would just fill: where those at the other ends serve two
// others as well, the powers are 2, not 4.
TEST(MessageExchangeTest, PortsThatServeManyDisturbEachOther) {
  const auto over_port = [](int n) {
    NodeConfig node = Node();
    const double bytes = 64 * kMiB;
    const double channels = 32 / (n == 3 ? 4 : n);
    const double port = (n - 1) * bytes / kPort;
    PointToPoint(node).set_channel_gb_per_s(bytes / channels / port / 1e9);
    return Seconds(node, Even(n, bytes)) / port;
  };

  EXPECT_NEAR(over_port(2), std::pow(2, 0.25), 1e-6);
  EXPECT_NEAR(over_port(3), std::pow(2, 0.25), 1e-6);
  EXPECT_NEAR(over_port(4), std::pow(2, 0.5), 1e-6);
}

// Rank 3 sends little and gets little, so it waits only for others' launches;
// rank 0's port is always busy, and hides its own.
TEST(MessageExchangeTest, TheBusiestPortHidesWhatItsRankDoesBesides) {
  NodeConfig node = Node();
  PointToPoint(node).set_launch_us(10);
  node.mutable_nccl()->set_channel_copy_gb_per_s(50);
  const double much = 64 * kMiB;
  const double little = 1 * kMiB;
  std::vector<std::vector<double>> matrix = Even(4, little);
  for (int i = 1; i < 4; ++i) matrix[i][0] = much;
  const double port = 3 * much / kPort;

  const double seconds = Seconds(node, matrix);
  EXPECT_GE(seconds, port);
  EXPECT_LT(seconds, port + 1e-6);
  // A round trip of large messages hides nothing: launch and last chunk.
  EXPECT_NEAR(Seconds(node, Even(4, much)), port + 10e-6 + (512 << 10) / 50e9,
              1e-9);
}

TEST(MessageExchangeTest, EvenBytesCostTheSameLookedAtOneByOne) {
  NodeConfig node = Node();
  PointToPoint(node).set_channel_gb_per_s(3);
  PointToPoint(node).set_packet_overhead(0.125);
  PointToPoint(node).set_simple_us(4);
  MessageExchange exchange;
  exchange.num_ranks = 4;
  exchange.port_rate.assign(4, kPort);
  exchange.all_alike = true;
  for (const double bytes : {1e4, 1e6, 1e8}) {
    const ExchangeSeconds folded = SecondsOfExchange(
        node, exchange, /*peers=*/1, [=](int, int) { return bytes; });
    EXPECT_NEAR(folded.latency + folded.bytes, Seconds(node, Even(4, bytes)),
                1e-12);
  }
}

}  // namespace
}  // namespace strata::sim
