// How long an exchange of messages within a node takes, as NCCL runs exchanges
// one after the other.
//
//   rank i:  |launch| sends to j, k ...            |launch| ...
//   rank j:     |launch|   ... part of i  |copy|      |launch| ...
//
// NCCL moves a message by channels, each a block of its kernel that writes
// chunks into a buffer of the receiver's, where the receiver's block copies
// them to their place. So a message takes what its channels and the ports on
// its way take, and the copy of the last chunk, which hides behind nothing.
// Channels read faster what the L2 still holds of the call before.
//
// Ports: a byte takes its own direction for itself and its share of a packet's
// head, and the other direction for what acknowledges it. A port that mostly
// receives is faster than one that does both. Channels share a port as fast as
// they are without it, so those that have less to do end early, and leave the
// port to slower ones that cannot fill it. Where ports at both ends of a
// message serve others too, and are about as busy, each waits for the other.
//
// Ranks are held in step only by messages: a rank begins its next exchange when
// it has what it gets, be its own messages read or not. So where bytes are
// uneven those that get little run ahead, and what the busiest port's rank does
// besides (launch, last copy) hides behind what they do: an exchange takes the
// mean of a round trip, not its longer way, and no less than the busiest port.

#ifndef SIM_COLLECTIVE_MESSAGE_EXCHANGE_H_
#define SIM_COLLECTIVE_MESSAGE_EXCHANGE_H_

#include <vector>

#include "absl/functional/function_ref.h"
#include "sim/cluster/cluster.pb.h"

namespace strata::sim {

struct MessageExchange {
  int num_ranks = 0;
  // All send as much to each other as the first to the second.
  bool all_alike = false;
  // Bytes a second that the ranks' ports have: [num_ranks].
  std::vector<double> port_rate;
};

struct ExchangeSeconds {
  double latency = 0;  // Launch and what large messages cost besides.
  double bytes = 0;    // The rest.
};

// Two limits together: near the larger, the nearer the larger `sharpness` is;
// where they are alike each is at times in the other's way.
double Together(double a, double b, double sharpness);

// Of `bytes`(i, j) from rank i to rank j, itself included. `peers`: other ranks
// that one sends to, at most. `node` has a tuner with channels.
//
// Where some rank gets or sends nothing, ranks are not held in step: then it is
// the time from the start of all to the last byte.
ExchangeSeconds SecondsOfExchange(
    const NodeConfig& node, const MessageExchange& exchange, double peers,
    absl::FunctionRef<double(int from, int to)> bytes);

}  // namespace strata::sim

#endif  // SIM_COLLECTIVE_MESSAGE_EXCHANGE_H_
