// How evenly a layer's (or tier's) experts are loaded.
//
//   load  [num_experts]  tokens routed to each expert in a window, >= 0
//     |
//     v
//   LoadStats, whose words are those of the specification:
//     gini            mean |load[i] - load[j]| over all pairs (i, j), as a
//     share
//                     of twice the mean; 0 is even, 1 - 1 / num_experts is one
//                     expert taking all
//     utilisation     mean / maximum, in (0, 1]
//     max_over_mean   its inverse: how much longer the step takes than it need
//     starved_share   share of the experts below a tenth of the mean
//
// Each is of one layer; a model's figure is the mean over its layers
// (AverageLoadStats), never the statistic of the summed loads, because an
// expert that rests in one layer does not help the busy one of another.
//
// No load at all is even: nobody waits for anybody. Its figures are 0, 1, 1, 0,
// and since they say nothing about the router, averages leave such layers out.
//
// Pure functions that allocate nothing.

#ifndef CORE_PARALLEL_LOAD_STATS_H_
#define CORE_PARALLEL_LOAD_STATS_H_

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

#include "absl/types/span.h"
#include "core/base/check.h"

namespace strata {

// An expert under this share of the mean load is starved.
inline constexpr double kStarvedShareOfMean = 0.1;

struct LoadStats {
  double total = 0;  // Tokens over all experts; 0 if there was no load.
  double gini = 0;
  double utilisation = 1;
  double max_over_mean = 1;
  double starved_share = 0;
};

// Returns the statistics of one layer's loads, each of which must be finite and
// not negative. T is int64_t, float or double.
template <typename T>
LoadStats ComputeLoadStats(absl::Span<const T> load) {
  LoadStats stats;
  double max = 0;
  for (const T tokens : load) {
    const double x = static_cast<double>(tokens);
    CHECK(x >= 0 && std::isfinite(x)) << "an expert's load is " << x;
    stats.total += x;
    max = std::max(max, x);
  }
  if (stats.total == 0) return stats;

  const double num_experts = load.size();
  const double mean = stats.total / num_experts;
  // Every pair once, by the definition: a layer has some hundred experts, and
  // sorting would want a copy.
  double differences = 0;
  double num_starved = 0;
  for (size_t i = 0; i < load.size(); ++i) {
    const double x = static_cast<double>(load[i]);
    if (x < kStarvedShareOfMean * mean) ++num_starved;
    for (size_t j = 0; j < i; ++j) {
      differences += std::abs(x - static_cast<double>(load[j]));
    }
  }
  // (2 differences / n^2) / (2 mean) and n mean = total.
  stats.gini = differences / (num_experts * stats.total);
  stats.utilisation = mean / max;
  stats.max_over_mean = max / mean;
  stats.starved_share = num_starved / num_experts;
  return stats;
}

template <typename T>
LoadStats ComputeLoadStats(const std::vector<T>& load) {
  return ComputeLoadStats(absl::MakeConstSpan(load));
}

// Gathers layers one by one; Mean() at any time.
//
//   LoadStatsMean tiers;
//   for (...) tiers.Add(ComputeLoadStats(load));
class LoadStatsMean {
 public:
  void Add(const LoadStats& layer) {
    if (layer.total == 0) return;
    ++num_layers_;
    sum_.total += layer.total;
    sum_.gini += layer.gini;
    sum_.utilisation += layer.utilisation;
    sum_.max_over_mean += layer.max_over_mean;
    sum_.starved_share += layer.starved_share;
  }

  // Layers added that had any load.
  int num_layers() const { return num_layers_; }

  // Returns the mean of each statistic over the layers that had any load, and
  // the sum of their totals; the figures of no load if none had.
  LoadStats Mean() const {
    if (num_layers_ == 0) return LoadStats();
    LoadStats mean = sum_;
    mean.gini /= num_layers_;
    mean.utilisation /= num_layers_;
    mean.max_over_mean /= num_layers_;
    mean.starved_share /= num_layers_;
    return mean;
  }

 private:
  LoadStats sum_ = {0, 0, 0, 0, 0};
  int num_layers_ = 0;
};

// The mean over layers whose statistics are at hand.
inline LoadStats AverageLoadStats(absl::Span<const LoadStats> layers) {
  LoadStatsMean mean;
  for (const LoadStats& layer : layers) mean.Add(layer);
  return mean.Mean();
}

}  // namespace strata

#endif  // CORE_PARALLEL_LOAD_STATS_H_
