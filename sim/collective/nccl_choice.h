// What NCCL chooses before a byte moves, on one node: the protocol of a ring,
// and the channels (blocks of its kernel) that carry a message.
//
// A ring's protocol is the one that NCCL's own cost model takes for the best.
// That model is public (src/graph/tuning.cc and enqueue.cc of NCCL 2.27 to
// 2.30, whose numbers are the same) and differs from the truth: it changes to
// SIMPLE where LL128, or LL, would still be as quick, and back never.
//
//   estimate = base + steps * step + bytes / bandwidth
//
//   protocol  base  step over NVLink  bandwidth of the bus
//   LL        6.6   0.6 us            half of the rings', a limit at most
//   LL128     14    1.9               0.92 of the rings'
//   SIMPLE    8.4   3.4               the rings'

#ifndef SIM_COLLECTIVE_NCCL_CHOICE_H_
#define SIM_COLLECTIVE_NCCL_CHOICE_H_

#include <vector>

#include "absl/functional/function_ref.h"
#include "sim/cluster/cluster.pb.h"

namespace strata::sim {

enum class NcclProtocol { kLl, kLl128, kSimple };

// Of a ring within a node: `steps` of its latency, `bytes` over each edge. The
// tuner's rates are set.
NcclProtocol RingProtocol(const NcclTuner& tuner, double steps, double bytes);

// Channels that carry a message of `bytes` within a group of `num_ranks` on one
// node, or one where the tuner has no channels. A group shares them out (32 of
// 24 on H100: the next power of two), so that each peer has its own; a message
// takes fewer where a channel would have less than `least_part` bytes, and
// twice as many while one has more than 16 MiB.
int MessageChannels(const NcclTuner& tuner, int num_ranks, double bytes,
                    double least_part);

// Whether a message of `bytes` goes as flagged words (LL): up to 16 KiB a
// channel, of all channels up to NCCL 2.28 (`ll_part` 8 KiB), of those that
// chunks would take since (64 KiB).
bool TakesFlaggedWords(const NcclTuner& tuner, int num_ranks, double bytes,
                       double ll_part);

// Of a message within a node, what NCCL's blocks, one for each channel, carry
// alike: channels that have as much to do besides.
struct PlacedMessage {
  int from = 0;
  int to = 0;        // May be `from`: a copy.
  double bytes = 0;  // Of these channels.
  bool flagged_words = false;
  int channels = 1;
  double part = 0;  // Bytes of a channel.
  // Warps that move its bytes there, and that copy them to their place; all of
  // a copy's are the former.
  int send_warps = 0;
  int receive_warps = 0;
  // Bytes that kLoneWarps would send in the time until a channel's are sent.
  double paced = 0;
  int turns = 1;  // Channels that have more than eight messages take turns.
};

// The messages of an exchange of `num_ranks` on one node, `bytes`(i, j) from
// rank i to rank j, itself included, where there are bytes; where all ranks are
// alike only the first rank's. Tuner with channels.
//
// A rank's messages begin at channels as far apart as can be, in an order that
// NCCL fixes; where they are more than the channels are, a channel has several
// at once. A block's 20 warps are shared out evenly among its messages, and of
// each between sending and receiving, where the channel does both: so a message
// that shares its channel has fewer, and those of one that ends idle.
//
// What a block sends goes by the root of the warps that send at a time, of all
// its messages: more warps move more, but less each, as what they wait for is
// shared. So a message whose neighbour has ended is faster from then on.
std::vector<PlacedMessage> PlaceMessages(
    const NcclTuner& tuner, int num_ranks, bool all_alike, double ll_part,
    absl::FunctionRef<double(int from, int to)> bytes);

// Warps that send, and that receive, where a channel has one message each way.
constexpr int kLoneWarps = 9;

// Of whole chunks: what a channel has at least, what it hands over at a time.
constexpr double kLeastPart = 64 << 10;
constexpr double kMessageChunk = 512 << 10;
// Between nodes.
constexpr double kNetChunk = 128 << 10;

// Of a rank's part, what fills the block of a ring's first channel with LL.
constexpr double kFullBlock = 512 * 8;

// A ring hands over slices: half of a channel's part, 1 MiB at most.
constexpr double kSlicesPerChunk = 2;
constexpr double kLargestSlice = 1 << 20;

}  // namespace strata::sim

#endif  // SIM_COLLECTIVE_NCCL_CHOICE_H_
