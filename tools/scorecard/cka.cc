#include "tools/scorecard/cka.h"

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "core/base/check.h"

namespace strata {
namespace {

// [num_rows, columns], each column less its mean.
std::vector<double> Centred(absl::Span<const float> x, int64_t num_rows) {
  const int64_t columns = static_cast<int64_t>(x.size()) / num_rows;
  std::vector<double> mean(columns, 0);
  for (size_t i = 0; i < x.size(); ++i) mean[i % columns] += x[i];
  std::vector<double> centred(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    centred[i] = x[i] - mean[i % columns] / static_cast<double>(num_rows);
  }
  return centred;
}

// |b'a|^2.
double CrossEnergy(const std::vector<double>& a, const std::vector<double>& b,
                   int64_t num_rows) {
  const int64_t a_columns = static_cast<int64_t>(a.size()) / num_rows;
  const int64_t b_columns = static_cast<int64_t>(b.size()) / num_rows;
  std::vector<double> product(a_columns * b_columns, 0);
  for (int64_t row = 0; row < num_rows; ++row) {
    for (int64_t i = 0; i < a_columns; ++i) {
      const double value = a[row * a_columns + i];
      const double* const other = b.data() + row * b_columns;
      double* const sum = product.data() + i * b_columns;
      for (int64_t j = 0; j < b_columns; ++j) sum[j] += value * other[j];
    }
  }
  double energy = 0;
  for (const double x : product) energy += x * x;
  return energy;
}

}  // namespace

double LinearCka(absl::Span<const float> x, absl::Span<const float> y,
                 int64_t num_rows) {
  CHECK(num_rows > 0 && x.size() % num_rows == 0 && y.size() % num_rows == 0)
      << x.size() << " and " << y.size() << " in " << num_rows << " rows";
  const std::vector<double> a = Centred(x, num_rows);
  const std::vector<double> b = Centred(y, num_rows);
  const double own = CrossEnergy(a, a, num_rows) * CrossEnergy(b, b, num_rows);
  return own > 0 ? CrossEnergy(a, b, num_rows) / std::sqrt(own) : 0;
}

}  // namespace strata
