// A backend whose nodes are looked at as they run: by who records what a rank
// does (training/trace), or lets it take its time (training/paced).

#ifndef CORE_RUNTIME_OBSERVED_BACKEND_H_
#define CORE_RUNTIME_OBSERVED_BACKEND_H_

#include <memory>

#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/runtime/backend.h"

namespace strata {

// Of one rank; told by the thread that runs its programs.
class NodeObserver {
 public:
  virtual ~NodeObserver() = default;

  virtual void Begin(const Node& node) {}
  // `cost`: by the cost functions, at the counts of this run.
  virtual void End(const Node& node, const Cost& cost) {}

  // The same of a node that runs beside others (core/runtime/lanes.h): when it
  // is begun, before it is waited for, and after that. What it exchanges is
  // told to a CommObserver by another thread: a call of a group some of whose
  // nodes were begun and are not done is by the first of them.
  virtual void Start(const Node& node, const Cost& cost) {}
  virtual void Wait(const Node& node) {}
  virtual void Join(const Node& node) {}
};

// `backend`, observed, as far as it runs node by node: a graph that it compiles
// whole (Backend::Compile) is not seen into. The observer must outlive the
// result.
std::unique_ptr<Backend> Observed(std::unique_ptr<Backend> backend,
                                  NodeObserver& observer);

}  // namespace strata

#endif  // CORE_RUNTIME_OBSERVED_BACKEND_H_
