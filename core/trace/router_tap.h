// The tap: reads what a program's gates chose, for a routing trace.
//
//   before compiling    ExposeTokens(graph, routers)        with tokens only
//   after               RouterTap tap(program->graph(), routers, with_tokens)
//                       tap.AddGates(header)
//   after each run      EncodeChoices(layout, tap.Read(*program), record)

#ifndef CORE_TRACE_ROUTER_TAP_H_
#define CORE_TRACE_ROUTER_TAP_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "core/graph/graph.h"
#include "core/model/moe.h"
#include "core/runtime/program.h"
#include "core/trace/routing_record.h"
#include "core/trace/routing_trace.pb.h"

namespace strata {

// Makes outputs of the weights of the chosen experts, and of who survived the
// coarse filter where there is one. They are found from the choice: the nodes
// that made it and that combine its experts' outputs.
void ExposeTokens(Graph& graph, const std::vector<RouterValues>& routers);

// For programs of type F32. Allocates nothing after it was made.
class RouterTap {
 public:
  // `with_tokens`: ExposeTokens was applied to the graph.
  RouterTap(const Graph& graph, const std::vector<RouterValues>& routers,
            bool with_tokens);

  // Adds the gates, and sets has_tokens.
  void AddGates(RoutingTraceHeader& header) const;

  // Of the program's latest run, by gate. Valid until the next one.
  absl::Span<const GateChoices> Read(const Program& program);

 private:
  struct Gate {
    RoutingGate shape;
    // Names of outputs, made once.
    std::string tokens;
    std::string expert;
    std::string weight;      // Empty without tokens.
    std::string considered;  // Empty where no filter drops experts.
  };

  bool with_tokens_;
  std::vector<Gate> gates_;
  std::vector<GateChoices> choices_;  // [gates]
};

}  // namespace strata

#endif  // CORE_TRACE_ROUTER_TAP_H_
