// Lanes: threads that run the nodes which exchange data with other ranks,
// beside those that compute.
//
//   the program   Begin(A)  node   node   Begin(B)  node  Join(A)  node ...
//   its lane         A ----------------      B --------------
//
// There is a lane for each group of ranks (the nodes' attribute "group"), which
// runs its nodes in the order of their beginning. Whoever calls a group on the
// program's own thread joins what its lane has first, so that a group is never
// called by two threads at once, and its calls have one order on every rank:
// that of the graph. Hence nobody waits in a circle: of all nodes that some
// rank has not done yet, take the first of the graph; nothing that a rank
// waits for stands before it, so every rank comes to it.

#ifndef CORE_RUNTIME_LANES_H_
#define CORE_RUNTIME_LANES_H_

#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "core/graph/graph.h"
#include "core/runtime/kernel.h"
#include "core/tensor/tensor.h"

namespace strata {

// Begin() and Join() are for one thread. A thread is started for a group when
// it is first needed; nothing is allocated after a few nodes.
class Lanes {
 public:
  // A run of a node; what it points to must stay until it is joined.
  struct Call {
    Kernel kernel = nullptr;
    const Node* node = nullptr;
    absl::Span<const TensorView> inputs;
    absl::Span<const TensorView> outputs;
    const Mesh* mesh = nullptr;
  };

  Lanes();
  ~Lanes();  // Everything is joined by then.

  // Kernels have one thread, and scratch memory of their lane.
  void Begin(const Call& call);

  // Waits for a node that was begun, and so for all before it on its lane, and
  // returns the kernel's error. To be called once for each.
  absl::Status Join(const Node& node);

 private:
  class Lane;

  Lane& Of(const Node& node);

  std::vector<std::unique_ptr<Lane>> lanes_;
};

}  // namespace strata

#endif  // CORE_RUNTIME_LANES_H_
