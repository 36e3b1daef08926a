#include "sim/collective/message_exchange.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "absl/functional/function_ref.h"
#include "sim/cluster/cluster.pb.h"
#include "sim/collective/cached_share.h"
#include "sim/collective/nccl_choice.h"

namespace strata::sim {
namespace {

constexpr double kGigabyte = 1e9;
constexpr double kKibibyte = 1024;
constexpr double kMicrosecond = 1e-6;

// Chosen, not derived: of channels and a port that nothing disturbs, and of
// those at whose other ends ports are as busy with others.
constexpr double kSharpness = 4;  // As Together has it.
constexpr double kDisturbedSharpness = 2;

// Exchanges until ranks are as far ahead of each other as they get, and as many
// that are timed.
constexpr int kRunIn = 4;
constexpr double kSame = 1e-9;

// Channels that share a port: seconds that they would take alone, and seconds
// of the port for their bytes.
struct PortShare {
  double channels = 0;
  double port = 0;
};

// A rank's port: seconds of an exchange's bytes.
struct Port {
  double out_bytes = 0;  // Data, without overhead.
  double in_bytes = 0;
  int receivers = 0;
  int senders = 0;
  double out = 0;
  double in = 0;
  // How busy the ports at the other ends are with at least two others
  // meanwhile, as a share of this one's time.
  double out_disturbed = 0;
  double in_disturbed = 0;
  // Those that take the least first.
  std::vector<PortShare> out_shares;
  std::vector<PortShare> in_shares;
};

// A message's channels, or a rank's copy to itself.
struct Flow {
  PlacedMessage message;
  double latency = 0;
  double channels = 0;   // Seconds, were there no ports.
  double last_copy = 0;  // Of SIMPLE.
  double sharpness = kSharpness;
  double in_port = 0;  // Of its bytes alone.
  // Until it has passed the ports, each as though there were no other.
  double pass_out = 0;
  double pass_in = 0;
};

double Warped(double gb_per_s, int warps) {
  return gb_per_s * kGigabyte *
         std::sqrt(static_cast<double>(warps) / kLoneWarps);
}

class Exchange {
 public:
  Exchange(const NodeConfig& node, const MessageExchange& exchange,
           double peers, absl::FunctionRef<double(int from, int to)> bytes)
      : node_(node),
        nccl_(node.nccl()),
        constants_(node.nccl().point_to_point()),
        exchange_(exchange),
        launch_(kMicrosecond *
                (constants_.launch_us() + constants_.per_peer_us() * peers)),
        ports_(exchange.num_ranks),
        touched_(exchange.num_ranks, 0),
        flows_to_(exchange.num_ranks) {
    AddPorts(bytes);
    const std::vector<PlacedMessage> placed =
        PlaceMessages(node.tuner(), exchange.num_ranks, exchange.all_alike,
                      constants_.ll_part_kib() * kKibibyte, bytes);
    for (const PlacedMessage& message : placed) AddTouched(message);
    for (const PlacedMessage& message : placed) AddFlow(message);
    const auto sort = [](std::vector<PortShare>& shares) {
      std::sort(shares.begin(), shares.end(),
                [](const PortShare& a, const PortShare& b) {
                  return a.channels < b.channels;
                });
    };
    for (Port& port : ports_) {
      sort(port.out_shares);
      // Others send alike.
      if (exchange.all_alike) port.in_shares = ports_[0].out_shares;
      sort(port.in_shares);
    }
    for (std::vector<Flow>& flows : flows_to_) {
      for (Flow& flow : flows) {
        flow.pass_out =
            SharedSeconds(flow, ports_[flow.message.from].out_shares, 1);
        flow.pass_in =
            SharedSeconds(flow, ports_[flow.message.to].in_shares, 1);
      }
    }
  }

  ExchangeSeconds Seconds() const {
    ExchangeSeconds seconds;
    for (const std::vector<Flow>& flows : flows_to_) {
      for (const Flow& flow : flows) {
        seconds.latency = std::max(seconds.latency, flow.latency);
      }
    }
    const double total =
        InStep() ? std::max(BusiestPort(), Repeated()) : Once();
    seconds.bytes = std::max(0.0, total - seconds.latency);
    return seconds;
  }

 private:
  void AddPorts(absl::FunctionRef<double(int from, int to)> bytes) {
    const int n = exchange_.num_ranks;
    std::vector<double> matrix(n * n);
    for (int i = 0; i < n; ++i) {
      for (int j = 0; j < n; ++j) {
        if (i == j) continue;
        matrix[i * n + j] = bytes(i, j);
        if (matrix[i * n + j] <= 0) continue;
        ports_[i].out_bytes += matrix[i * n + j];
        ports_[j].in_bytes += matrix[i * n + j];
        ++ports_[i].receivers;
        ++ports_[j].senders;
      }
    }
    const double overhead = constants_.packet_overhead();
    for (int i = 0; i < n; ++i) {
      Port& port = ports_[i];
      const double rate = exchange_.port_rate[i] * constants_.efficiency();
      port.out =
          (port.out_bytes * (1 + overhead) + port.in_bytes * overhead) / rate;
      port.in =
          (port.in_bytes * (1 + overhead) + port.out_bytes * overhead) / rate;
    }
    for (int i = 0; i < n; ++i) {
      for (int j = 0; j < n; ++j) {
        const double sent = matrix[i * n + j];
        if (sent <= 0) continue;
        if (ports_[i].receivers > 2) {
          ports_[j].in_disturbed +=
              ports_[i].out * sent / ports_[j].in_bytes / ports_[j].in;
        }
        if (ports_[j].senders > 2) {
          ports_[i].out_disturbed +=
              ports_[j].in * sent / ports_[i].out_bytes / ports_[i].out;
        }
      }
    }
  }

  // The caller's bytes at both ends, and the slots of the receiver's buffers.
  void AddTouched(const PlacedMessage& message) {
    double slots = 0;
    if (message.from != message.to && !message.flagged_words) {
      const double chunks = std::ceil(message.part / kMessageChunk);
      slots = kSlots * message.part / chunks * message.channels;
    }
    touched_[message.from] += message.bytes;
    touched_[exchange_.all_alike ? 0 : message.to] += message.bytes + slots;
  }

  void AddFlow(const PlacedMessage& message) {
    Flow flow;
    flow.message = message;
    flow.latency = launch_;
    const double part = message.part * message.turns;
    if (message.flagged_words) {
      flow.channels = part / (constants_.ll_gb_per_s() * kGigabyte);
    } else if (constants_.channel_gb_per_s() > 0) {
      flow.channels = message.paced * message.turns /
                      (constants_.channel_gb_per_s() * kGigabyte) *
                      ReadingTime(node_, touched_[message.from]);
    }
    Port& from = ports_[message.from];
    Port& to = ports_[message.to];
    if (message.from != message.to) {
      flow.in_port = to.in * message.bytes / to.in_bytes;
      to.in_shares.push_back({flow.channels, flow.in_port});
      from.out_shares.push_back(
          {flow.channels, from.out * message.bytes / from.out_bytes});
      if (!message.flagged_words) {
        flow.latency += constants_.simple_us() * kMicrosecond;
        if (nccl_.channel_copy_gb_per_s() > 0) {
          flow.last_copy =
              std::min(part, kMessageChunk) /
              Warped(nccl_.channel_copy_gb_per_s(), message.receive_warps);
        }
        const double disturbed = std::min(
            1.0, to.in >= from.out ? to.in_disturbed : from.out_disturbed);
        flow.sharpness -=
            (kSharpness - kDisturbedSharpness) * disturbed * disturbed;
      }
    }
    flows_to_[message.to].push_back(flow);
  }

  // Seconds of a flow whose receiver's port takes `in` until it has passed.
  double SecondsOf(const Flow& flow, double in) const {
    if (flow.message.from == flow.message.to) {
      return flow.latency + flow.channels;
    }
    return flow.latency + flow.last_copy + PassSeconds(flow, in);
  }

  double PassSeconds(const Flow& flow, double in) const {
    const Port& from = ports_[flow.message.from];
    const Port& to = ports_[flow.message.to];
    if (flow.message.flagged_words || flow.channels <= 0) {
      return std::max({in, from.out, flow.channels});
    }
    return std::max(flow.pass_out,
                    in == to.in
                        ? flow.pass_in
                        : SharedSeconds(flow, to.in_shares, in / to.in));
  }

  // Of a flow through a port, of whose time there is the share `left`.
  static double SharedSeconds(const Flow& flow,
                              const std::vector<PortShare>& shares,
                              double left) {
    // Seconds of the port that all ask for in a second.
    double asked = 0;
    for (const PortShare& share : shares) {
      if (share.channels > 0) asked += share.port / share.channels;
    }
    double alone = 0;
    double seconds = 0;
    for (const PortShare& share : shares) {
      const double until = std::min(share.channels, flow.channels);
      if (until <= 0) continue;
      if (until > alone) {
        seconds += (until - alone) * Together(1, left * asked, flow.sharpness);
        alone = until;
      }
      asked -= share.port / share.channels;
    }
    return seconds;
  }

  // Whether each rank waits for another in every exchange.
  bool InStep() const {
    return !exchange_.all_alike &&
           std::all_of(ports_.begin(), ports_.end(), [](const Port& port) {
             return port.in_bytes > 0 && port.out_bytes > 0;
           });
  }

  double Once() const {
    double most = 0;
    for (int to = 0; to < exchange_.num_ranks; ++to) {
      for (const Flow& flow : flows_to_[to]) {
        most = std::max(most, SecondsOf(flow, ports_[to].in));
      }
    }
    return most;
  }

  // That no exchange takes less than, however far ranks run ahead.
  double BusiestPort() const {
    double most = 0;
    for (int to = 0; to < exchange_.num_ranks; ++to) {
      for (const Flow& flow : flows_to_[to]) {
        if (flow.message.from == to) continue;
        most = std::max(most, PassSeconds(flow, ports_[to].in));
      }
    }
    return most;
  }

  // Of exchanges one after the other, the mean.
  double Repeated() const {
    const int n = exchange_.num_ranks;
    std::vector<double> begin(n, 0);
    std::vector<double> end(n);
    double run_in = 0;
    for (int i = 0; i < 2 * kRunIn; ++i) {
      if (i == kRunIn) run_in = Mean(begin);
      double least = std::numeric_limits<double>::infinity();
      double most = 0;
      for (int to = 0; to < n; ++to) {
        end[to] = 0;
        for (const Flow& flow : flows_to_[to]) {
          end[to] =
              std::max(end[to], begin[flow.message.from] +
                                    SecondsOf(flow, PortLeft(flow, begin)));
        }
        least = std::min(least, end[to] - begin[to]);
        most = std::max(most, end[to] - begin[to]);
      }
      // As far ahead of each other as they were: so it goes on.
      if (most - least <= kSame * most) return most;
      begin = end;
    }
    return (Mean(begin) - run_in) / kRunIn;
  }

  // Of the receiver's port, what is left when the flow begins: others that
  // began before it have had the port meanwhile.
  double PortLeft(const Flow& flow, const std::vector<double>& begin) const {
    const int from = flow.message.from;
    const int to = flow.message.to;
    double first = begin[from];
    double passed = 0;
    for (const Flow& other : flows_to_[to]) {
      const int rank = other.message.from;
      if (rank == to || begin[rank] >= begin[from]) continue;
      first = std::min(first, begin[rank]);
      passed += std::min(other.in_port, begin[from] - begin[rank]);
    }
    return ports_[to].in - std::min(passed, begin[from] - first);
  }

  static double Mean(const std::vector<double>& of) {
    double sum = 0;
    for (const double x : of) sum += x;
    return sum / of.size();
  }

  const NodeConfig& node_;
  const NcclConstants& nccl_;
  const NcclConstants::PointToPoint& constants_;
  const MessageExchange& exchange_;
  const double launch_;
  std::vector<Port> ports_;                  // [num_ranks]
  std::vector<double> touched_;              // Bytes: [num_ranks]
  std::vector<std::vector<Flow>> flows_to_;  // [num_ranks], by receiver
};

}  // namespace

double Together(double a, double b, double sharpness) {
  const double most = std::max(a, b);
  const double least = std::min(a, b);
  if (least <= 0) return most;
  const double share = least / most;
  // Of most messages, and much quicker.
  const double square = share * share;
  if (sharpness == kSharpness) {
    return most * std::sqrt(std::sqrt(1 + square * square));
  }
  if (sharpness == kDisturbedSharpness) return most * std::sqrt(1 + square);
  return most * std::pow(1 + std::pow(share, sharpness), 1 / sharpness);
}

ExchangeSeconds SecondsOfExchange(
    const NodeConfig& node, const MessageExchange& exchange, double peers,
    absl::FunctionRef<double(int from, int to)> bytes) {
  return Exchange(node, exchange, peers, bytes).Seconds();
}

}  // namespace strata::sim
