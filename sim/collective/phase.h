// The phases that collectives are made of: who sends what to whom, and what
// that puts on the links.
//
// A phase's load is known in two ways that must agree: every transfer with its
// route (unfolded), or the links of one node, which in a symmetric group stand
// for those of all (folded).

#ifndef SIM_COLLECTIVE_PHASE_H_
#define SIM_COLLECTIVE_PHASE_H_

#include "absl/functional/function_ref.h"
#include "absl/types/span.h"
#include "sim/collective/group.h"
#include "sim/engine/time.h"
#include "sim/network/topology.h"

namespace strata::sim {

enum class Pattern {
  // A ring over all ranks, node by node; each edge carries `bytes`. There are
  // as
  // many rings as the smallest node has ranks, each with an even share, which
  // enters and leaves nodes at another GPU: so all their NICs are used.
  kRing,
  // Two binary trees over nodes (Sanders, Speck, Traeff 2009), in each of which
  // half of `bytes` goes up to the root and down again; chains within nodes.
  kTree,
  kAllPairs,    // `bytes` from each rank to each other.
  kExchange,    // `bytes` between ranks i and i ^ distance.
  kWithinRing,  // A ring within each node; each edge carries `bytes`.
  kAcrossRing,  // A ring over nodes of ranks with the same place in theirs.
  kWithinAll,   // `bytes` from each rank to each other of its node.
  kAcrossAll,   // `bytes` to each rank with the same place in another node.
  // `bytes` through each NVLink port, reduced in the switches; between nodes as
  // kTree.
  kInSwitch,
  kMatrix,  // `matrix`[i][j] from the i-th rank to the j-th.
};

struct Phase {
  Pattern pattern = Pattern::kRing;
  double bytes = 0;
  int distance = 0;
  absl::Span<const double> matrix;  // [size, size]
  int times = 1;                    // Run one after the other.

  // Latencies in sequence: steps within a node, steps over NICs, levels of a
  // tree over NICs.
  double steps = 0;
  double net_steps = 0;
  double tree_steps = 0;
};

// What a phase puts on the links of a kind.
struct KindLoad {
  double seconds = 0;  // Of the busiest link, at its full bandwidth.
  LinkId link = -1;    // It; the first such.
};

struct PhaseLoad {
  KindLoad nvlink;
  KindLoad nic;
  KindLoad leaf;
  KindLoad dimension;
  Picoseconds route_latency = 0;  // The longest; only of generic dimensions.
  // Bytes that leave the busiest NVLink port, and the NICs of the busiest node
  // for each of its ranks.
  double nvlink_bytes = 0;
  double nic_bytes = 0;
};

using AddTransfer = absl::FunctionRef<void(int from, int to, double bytes)>;

// What the transfers that `emit` calls its argument for put on the links.
PhaseLoad LoadOfTransfers(const Group& group, const Topology& topology,
                          absl::FunctionRef<void(AddTransfer add)> emit);

// Shares of the links' bandwidth that a protocol reaches.
struct Efficiency {
  double nvlink = 1;
  double net = 1;
};

// Seconds until the phase's bytes have passed all links; `bottleneck` is the
// link that takes them, or -1.
double BandwidthTime(const PhaseLoad& load, const Efficiency& efficiency,
                     LinkId& bottleneck);

// Calls `add` for every transfer of the phase.
void ForEachTransfer(const Phase& phase, const Group& group, bool has_nodes,
                     AddTransfer add);

PhaseLoad UnfoldedLoad(const Phase& phase, const Group& group,
                       const Topology& topology);

// As UnfoldedLoad, for a symmetric group on nodes and any pattern but kMatrix;
// the cost is that of the group's links, not of its transfers.
PhaseLoad FoldedLoad(const Phase& phase, const Group& group,
                     const Topology& topology);

// The parent of node `i` of `n` in the first or the second of kTree's trees; -1
// for the root.
int TreeParent(int n, int i, bool second);

}  // namespace strata::sim

#endif  // SIM_COLLECTIVE_PHASE_H_
