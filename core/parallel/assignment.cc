#include "core/parallel/assignment.h"

#include <limits>
#include <vector>

#include "core/base/check.h"

namespace strata {

std::vector<int> BestAssignment(const std::vector<std::vector<int>>& value) {
  const int n = value.size();
  constexpr int kInfinity = std::numeric_limits<int>::max();
  // Prices keep row_price + column_price <= -value everywhere, with equality on
  // the assigned pairs: then no assignment costs less. Column n is a stand-in
  // for where the row to be assigned comes from.
  std::vector<int> row_price(n, 0);
  std::vector<int> column_price(n + 1, 0);
  std::vector<int> row_of(n + 1, -1);
  for (int row = 0; row < n; ++row) {
    CHECK_EQ(value[row].size(), static_cast<size_t>(n));
    // The shortest path from `row` over assigned pairs to a free column.
    std::vector<int> distance(n, kInfinity);
    std::vector<int> came_from(n, -1);
    std::vector<bool> done(n + 1, false);
    row_of[n] = row;
    int column = n;
    while (row_of[column] >= 0) {
      done[column] = true;
      const int r = row_of[column];
      int nearest = -1;
      for (int c = 0; c < n; ++c) {
        if (done[c]) continue;
        const int slack = -value[r][c] - row_price[r] - column_price[c];
        if (slack < distance[c]) {
          distance[c] = slack;
          came_from[c] = column;
        }
        if (nearest < 0 || distance[c] < distance[nearest]) nearest = c;
      }
      const int step = distance[nearest];
      for (int c = 0; c <= n; ++c) {
        if (done[c]) {
          row_price[row_of[c]] += step;
          column_price[c] -= step;
        } else {
          distance[c] -= step;
        }
      }
      column = nearest;
    }
    while (column != n) {  // Shift the pairs along the path.
      row_of[column] = row_of[came_from[column]];
      column = came_from[column];
    }
  }
  std::vector<int> column_of(n);
  for (int c = 0; c < n; ++c) column_of[row_of[c]] = c;
  return column_of;
}

}  // namespace strata
