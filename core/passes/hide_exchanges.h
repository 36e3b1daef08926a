// Orders the nodes of a graph such that other work stands between an exchange
// of rows and what reads them, for backends that run one beside the other
// (core/passes/plan_beside.h).
//
//   forward    SendRows, experts, ReturnRows, combine, shared expert, add
//     becomes  SendRows, shared expert, experts, ReturnRows, combine, add
//   backward   ..., input gradient of the experts, their weight gradients,
//              ReturnRows
//     becomes  ..., input gradient, ReturnRows, weight gradients
//
// Data flows as before, so results are the same bits. Memory is held for
// longer.

#ifndef CORE_PASSES_HIDE_EXCHANGES_H_
#define CORE_PASSES_HIDE_EXCHANGES_H_

#include "core/graph/graph.h"

namespace strata {

// What a device computes while a byte of rows is on its way: its FLOP/s over
// the network's bytes/s. 100 GFLOP/s and 1 GB/s are those of a few CPU cores
// and 10 Gb/s Ethernet. Work beyond what that hides is left for other
// exchanges.
constexpr double kFlopsPerWireByte = 100;

// `graph` with its nodes in another order, in which exchanges may run beside
// what follows them; values keep their numbers. Nodes of one group of ranks
// keep their order, and so do those of which one changes state that the other
// uses.
//
// In turn takes the first node that can run: an exchange before others; while
// one is on its way, one that does not wait for it, until the work since then
// has hidden it or there is no other.
Graph HideExchanges(const Graph& graph,
                    double flops_per_wire_byte = kFlopsPerWireByte);

}  // namespace strata

#endif  // CORE_PASSES_HIDE_EXCHANGES_H_
