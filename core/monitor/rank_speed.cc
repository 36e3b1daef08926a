#include "core/monitor/rank_speed.h"

#include <algorithm>
#include <cstddef>
#include <limits>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "core/base/check.h"

namespace strata {
namespace {

// Of an even number the mean of the middle two. 0 of none.
double Median(std::vector<double> x) {
  if (x.empty()) return 0;
  std::sort(x.begin(), x.end());
  const size_t middle = x.size() / 2;
  return x.size() % 2 == 1 ? x[middle] : (x[middle - 1] + x[middle]) / 2;
}

// Of the numbers of all ranks but `rank` for which `counts` is true.
template <typename Counts>
double MedianOfOthers(absl::Span<const double> x, size_t rank,
                      const Counts& counts) {
  std::vector<double> others;
  for (size_t r = 0; r < x.size(); ++r) {
    if (r != rank && counts(r)) others.push_back(x[r]);
  }
  return Median(std::move(others));
}

}  // namespace

RankSpeed::RankSpeed(std::vector<int> stages)
    : stages_(std::move(stages)),
      least_(stages_.size(), std::numeric_limits<double>::infinity()) {
  CHECK(stages_.size() >= 2) << "one rank";
}

RankSpeed::Slowest RankSpeed::Observe(absl::Span<const double> own,
                                      absl::Span<const double> rows) {
  const size_t ranks = stages_.size();
  CHECK(own.size() == ranks && (rows.empty() || rows.size() == ranks));
  std::vector<double> growth(ranks);
  for (size_t r = 0; r < ranks; ++r) {
    least_[r] = std::min(least_[r], own[r]);
    growth[r] = own[r] / least_[r];
  }
  Slowest slowest;
  slowest.times = 0;
  for (size_t r = 0; r < ranks; ++r) {
    const auto same_stage = [&](size_t other) {
      return stages_[other] == stages_[r];
    };
    const double others = MedianOfOthers(own, r, same_stage);
    double times = 1;
    if (others > 0) {
      times = own[r] / others;
      const double usual =
          rows.empty() ? 0 : MedianOfOthers(rows, r, same_stage);
      if (usual > 0) times /= std::max(1.0, rows[r] / usual);
    } else {
      times =
          growth[r] / MedianOfOthers(growth, r, [](size_t) { return true; });
    }
    if (times > slowest.times) slowest = {static_cast<int>(r), times};
  }
  return slowest;
}

}  // namespace strata
