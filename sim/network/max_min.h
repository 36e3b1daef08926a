// Max-min fair rates of flows that share links: no flow could go faster without
// slowing one that is no faster than it (Bertsekas and Gallager, Data Networks,
// 2nd ed., 6.5.2).
//
//   flow   weight  route            link   capacity
//    0       3     0 2               0       10
//    1       1     2                 2        4     -> rates 1, 1
//
// A flow of weight w stands for w flows of the same route; its rate is that of
// one of them.

#ifndef SIM_NETWORK_MAX_MIN_H_
#define SIM_NETWORK_MAX_MIN_H_

#include <utility>
#include <vector>

#include "absl/types/span.h"

namespace strata::sim {

struct MaxMinProblem {
  absl::Span<const double> capacity;  // [links], positive
  absl::Span<const double> weight;    // [flows], positive
  // Flow f passes links route[route_begin[f]] to route[route_begin[f + 1] - 1],
  // at least one, none twice.
  absl::Span<const int> route_begin;  // [flows + 1]
  absl::Span<const int> route;
};

// Keeps its memory between calls.
class MaxMinSolver {
 public:
  // Writes the rates, [flows]. Time is that of the routes' links, and of a heap
  // of links.
  void Solve(const MaxMinProblem& problem, std::vector<double>& rate);

 private:
  std::vector<double> residual_;  // [links]
  std::vector<double> weight_;    // [links], of flows without a rate
  std::vector<int> flow_begin_;   // [links + 1] -> flow_
  std::vector<int> flow_;
  std::vector<int> next_;  // [links], where the next flow goes while filling.
  std::vector<std::pair<double, int>> heap_;  // Share, link; least first.
};

}  // namespace strata::sim

#endif  // SIM_NETWORK_MAX_MIN_H_
