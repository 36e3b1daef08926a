#include "sim/compute/minimize.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numeric>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/types/span.h"
#include "core/base/random.h"

namespace strata {
namespace {

constexpr int kStarts = 6;
constexpr double kSpread = 1.5;  // of the drawn starts: a factor of e^1.5
constexpr double kSmallestStep = 2e-3;

using Point = std::vector<double>;  // Logarithms.
using Cost = absl::FunctionRef<double(absl::Span<const double>)>;

class Search {
 public:
  Search(Cost cost, absl::Span<const SearchRange> range)
      : cost_(cost), range_(range), values_(range.size()) {}

  int evaluations() const { return evaluations_; }

  double At(const Point& point) {
    ++evaluations_;
    for (size_t i = 0; i < point.size(); ++i) values_[i] = std::exp(point[i]);
    const double cost = cost_(values_);
    return std::isfinite(cost) ? cost : std::numeric_limits<double>::infinity();
  }

  double Clamp(size_t i, double x) const {
    return std::clamp(x, std::log(range_[i].least), std::log(range_[i].most));
  }

  // A step along each axis in turn, either way; steps grow where they help.
  double Pattern(Point& best, double best_cost, double first_step, int budget) {
    const int end = evaluations_ + budget;
    std::vector<double> step(best.size(), first_step);
    while (evaluations_<end&& * std::max_element(step.begin(), step.end())>
               kSmallestStep) {
      for (size_t i = 0; i < best.size() && evaluations_ < end; ++i) {
        bool improved = false;
        for (const double sign : {-1.0, 1.0}) {
          Point next = best;
          next[i] = Clamp(i, next[i] + sign * step[i]);
          if (next[i] == best[i]) continue;
          const double cost = At(next);
          if (cost < best_cost) {
            best_cost = cost;
            best = std::move(next);
            improved = true;
            break;
          }
        }
        step[i] *= improved ? 1.6 : 0.5;
      }
    }
    return best_cost;
  }

  // Nelder and Mead, from `best` and a step along each axis.
  double Simplex(Point& best, double best_cost, double step, int budget) {
    const int end = evaluations_ + budget;
    const size_t n = best.size();
    std::vector<std::pair<double, Point>> corner = {{best_cost, best}};
    for (size_t i = 0; i < n; ++i) {
      Point point = best;
      point[i] = Clamp(i, point[i] + step);
      if (point[i] == best[i]) point[i] = Clamp(i, point[i] - step);
      corner.push_back({At(point), point});
    }
    const double expand = 1 + 2.0 / n, contract = 0.75 - 0.5 / n,
                 shrink = 1 - 1.0 / n;
    while (evaluations_ < end) {
      std::stable_sort(
          corner.begin(), corner.end(),
          [](const auto& a, const auto& b) { return a.first < b.first; });
      if (corner[n].first - corner[0].first < 1e-7) break;
      Point center(n);
      for (size_t c = 0; c < n; ++c) {
        for (size_t i = 0; i < n; ++i) center[i] += corner[c].second[i] / n;
      }
      const auto along = [&](double factor) {
        Point point(n);
        for (size_t i = 0; i < n; ++i) {
          point[i] =
              Clamp(i, center[i] + factor * (corner[n].second[i] - center[i]));
        }
        const double cost = At(point);
        return std::make_pair(cost, std::move(point));
      };
      auto reflected = along(-1);
      if (reflected.first < corner[0].first) {
        auto expanded = along(-expand);
        corner[n] =
            std::move(expanded.first < reflected.first ? expanded : reflected);
        continue;
      }
      if (reflected.first < corner[n - 1].first) {
        corner[n] = std::move(reflected);
        continue;
      }
      auto contracted =
          along(reflected.first < corner[n].first ? -contract : contract);
      if (contracted.first < std::min(reflected.first, corner[n].first)) {
        corner[n] = std::move(contracted);
        continue;
      }
      for (size_t c = 1; c <= n; ++c) {
        for (size_t i = 0; i < n; ++i) {
          corner[c].second[i] =
              corner[0].second[i] +
              shrink * (corner[c].second[i] - corner[0].second[i]);
        }
        corner[c].first = At(corner[c].second);
      }
    }
    const auto least = std::min_element(
        corner.begin(), corner.end(),
        [](const auto& a, const auto& b) { return a.first < b.first; });
    best = least->second;
    return least->first;
  }

 private:
  Cost cost_;
  absl::Span<const SearchRange> range_;
  std::vector<double> values_;
  int evaluations_ = 0;
};

}  // namespace

Minimum Minimize(Cost cost, absl::Span<const SearchRange> range,
                 int max_evaluations) {
  Search search(cost, range);
  Point initial;
  for (size_t i = 0; i < range.size(); ++i) {
    initial.push_back(search.Clamp(i, std::log(range[i].initial)));
  }
  // Half for the starts, half for the best of them.
  Random random(/*seed=*/0, HashName("starts of a fit"));
  Point best;
  double best_cost = std::numeric_limits<double>::infinity();
  for (int start = 0; start < kStarts; ++start) {
    Point point = initial;
    for (size_t i = 0; start > 0 && i < point.size(); ++i) {
      point[i] =
          search.Clamp(i, point[i] + kSpread * (2 * random.Uniform() - 1));
    }
    double found = search.At(point);
    found = search.Pattern(point, found, /*first_step=*/0.5,
                           max_evaluations / (2 * kStarts));
    if (best.empty() || found < best_cost) {
      best_cost = found;
      best = point;
    }
  }
  const int part = max_evaluations / 6;
  best_cost = search.Simplex(best, best_cost, /*step=*/0.2, part);
  best_cost = search.Pattern(best, best_cost, /*first_step=*/0.3, part);
  best_cost = search.Simplex(best, best_cost, /*step=*/0.1, part);

  Minimum minimum;
  for (const double x : best) minimum.at.push_back(std::exp(x));
  minimum.value = best_cost;
  minimum.evaluations = search.evaluations();
  return minimum;
}

}  // namespace strata
