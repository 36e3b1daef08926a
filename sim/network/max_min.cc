#include "sim/network/max_min.h"

#include <algorithm>
#include <functional>
#include <utility>
#include <vector>

namespace strata::sim {

void MaxMinSolver::Solve(const MaxMinProblem& problem,
                         std::vector<double>& rate) {
  const int num_links = problem.capacity.size();
  const int num_flows = problem.weight.size();
  residual_.assign(problem.capacity.begin(), problem.capacity.end());
  weight_.assign(num_links, 0);
  flow_begin_.assign(num_links + 1, 0);
  for (const int link : problem.route) ++flow_begin_[link + 1];
  for (int l = 0; l < num_links; ++l) flow_begin_[l + 1] += flow_begin_[l];
  flow_.resize(problem.route.size());

  next_.assign(flow_begin_.begin(), flow_begin_.end() - 1);
  for (int f = 0; f < num_flows; ++f) {
    for (int i = problem.route_begin[f]; i < problem.route_begin[f + 1]; ++i) {
      const int link = problem.route[i];
      weight_[link] += problem.weight[f];
      flow_[next_[link]++] = f;
    }
  }

  heap_.clear();
  for (int l = 0; l < num_links; ++l) {
    if (weight_[l] > 0) heap_.emplace_back(residual_[l] / weight_[l], l);
  }
  const auto later = std::greater<std::pair<double, int>>();
  std::make_heap(heap_.begin(), heap_.end(), later);
  rate.assign(num_flows, -1);
  while (!heap_.empty()) {
    std::pop_heap(heap_.begin(), heap_.end(), later);
    const auto [share, link] = heap_.back();
    heap_.pop_back();
    if (weight_[link] <= 0) continue;
    // A link's share only grows as flows that are limited elsewhere leave it,
    // so an entry that is out of date goes back in.
    const double now = residual_[link] / weight_[link];
    if (now > share) {
      heap_.emplace_back(now, link);
      std::push_heap(heap_.begin(), heap_.end(), later);
      continue;
    }
    for (int i = flow_begin_[link]; i < flow_begin_[link + 1]; ++i) {
      const int f = flow_[i];
      if (rate[f] >= 0) continue;
      rate[f] = share;
      for (int r = problem.route_begin[f]; r < problem.route_begin[f + 1];
           ++r) {
        const int other = problem.route[r];
        // What is left is not negative, whatever the roundings.
        residual_[other] =
            std::max(0.0, residual_[other] - share * problem.weight[f]);
        weight_[other] -= problem.weight[f];
      }
    }
    weight_[link] = 0;
  }
}

}  // namespace strata::sim
