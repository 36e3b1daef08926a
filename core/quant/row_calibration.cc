#include "core/quant/row_calibration.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "core/cpu/gemm.h"
#include "core/cpu/vector_math.h"
#include "core/quant/format.h"
#include "core/quant/quantized_matrix.h"
#include "core/quant/rounding_errors.h"
#include "core/tensor/bfloat16.h"

namespace strata {
namespace {

constexpr double kDamping = 0.01;
// Scales that are tried: from 1 down to 0.5 times the one that clips nothing.
constexpr int kTries = 41;
constexpr float kSmallest = 0.5f;

float Dot(const float* a, const float* b, int64_t n) {
  return VectorMath<float>::Get().dot(a, b, n);
}

// The reverse Cholesky factor of h [n, n]: R upper, h = R R^T. Column j is
// found from those behind it; what those beyond the block of j take off is a
// product of matrices for a block at a time.
std::vector<double> UpperFactor(const std::vector<float>& h, int64_t n) {
  constexpr int64_t kBlock = 64;
  const VectorMath<double>& vec = VectorMath<double>::Get();
  std::vector<double> r(n * n), left(n * kBlock);
  for (int64_t end = n; end > 0; end -= std::min(kBlock, end)) {
    const int64_t begin = std::max<int64_t>(0, end - kBlock);
    // left [end, kBlock] = h - R R^T, of columns [begin, end).
    for (int64_t i = 0; i < end; ++i) {
      std::copy_n(h.data() + i * n + begin, end - begin,
                  left.data() + i * kBlock);
    }
    GemmArgs<double> g;
    g.transpose_b = true;
    g.m = end;
    g.n = end - begin;
    g.k = n - end;
    g.alpha = -1;
    g.a = r.data() + end;
    g.b = r.data() + begin * n + end;
    g.lda = g.ldb = n;
    g.beta = 1;
    g.c = left.data();
    g.ldc = kBlock;
    Gemm(g);
    for (int64_t j = end - 1; j >= begin; --j) {
      double* const rj = r.data() + j * n;
      const int64_t behind = end - 1 - j;
      const auto rest = [&](int64_t i) {
        return left[i * kBlock + j - begin] -
               vec.dot(r.data() + i * n + j + 1, rj + j + 1, behind);
      };
      // Damping keeps it above zero, but for rounding.
      rj[j] = std::sqrt(std::max(rest(j), 1e-12 * h[j * n + j] + 1e-300));
      for (int64_t i = 0; i < j; ++i) r[i * n + j] = rest(i) / rj[j];
    }
  }
  return r;
}

// Columns [at, at + group) of a row of which those before are done. `target` is
// w and what they ask of it.
void FeedbackGroup(const float* w, const Curvature& curvature, int64_t at,
                   const float* target, float* error, int64_t row,
                   QuantizedMatrix& m) {
  const int64_t k = m.columns, group = GroupColumns(m.format, k);
  const GroupScale s =
      SearchScale(target, curvature.weight.data() + at, group, m.format);
  const int64_t g = row * m.num_groups() + at / group;
  m.scale[g] = s.scale;
  m.zero[g] = s.zero;
  const float scale = Widen(s.scale);
  for (int64_t c = 0; c < group; ++c) {
    const float* const feedback = curvature.feedback.data() + (at + c) * k + at;
    const float wanted = target[c] + Dot(feedback, error + at, c);
    const uint8_t code = CodeOf(wanted, scale, s.zero, m.format.max_code());
    m.code[row * k + at + c] = code;
    error[at + c] = w[at + c] - static_cast<float>(code - s.zero) * scale;
  }
}

}  // namespace

Curvature CurvatureOf(const std::vector<float>& moments, int64_t columns,
                      bool factors) {
  Curvature c;
  c.columns = columns;
  c.moment = moments;
  double mean = 0;
  for (int64_t i = 0; i < columns; ++i) mean += moments[i * (columns + 1)];
  mean /= static_cast<double>(columns);
  // Inputs that are all zero leave every code alike.
  const float damping = mean > 0 ? static_cast<float>(kDamping * mean) : 1;
  c.weight.resize(columns);
  for (int64_t i = 0; i < columns; ++i) {
    c.moment[i * (columns + 1)] += damping;
    c.weight[i] = c.moment[i * (columns + 1)];
  }
  if (!factors) return c;
  const std::vector<double> r = UpperFactor(c.moment, columns);
  c.feedback.resize(columns * columns);
  for (int64_t j = 0; j < columns; ++j) {
    const double rj = r[j * columns + j];
    c.weight[j] = static_cast<float>(rj * rj);
    for (int64_t l = 0; l < j; ++l) {
      c.feedback[j * columns + l] = static_cast<float>(r[l * columns + j] / rj);
    }
  }
  return c;
}

GroupScale SearchScale(const float* w, const float* weight, int64_t n,
                       const QuantFormat& format) {
  const NumberRange range = RangeOf(w, n);
  GroupScale best = ScaleOf(range, format);
  float least = std::numeric_limits<float>::infinity();
  std::vector<float> errors(n);
  for (int i = 0; i < kTries; ++i) {
    const float shrink = 1 - (1 - kSmallest) * i / (kTries - 1);
    const GroupScale tried = ScaleOf(range, format, shrink);
    // All are zero, or as good as that.
    if (Widen(tried.scale) == 0) return best;
    RoundingErrors(w, weight, n, Widen(tried.scale), tried.zero,
                   format.max_code(), errors.data());
    // In turn: the same on every processor that rounds alike.
    float sum = 0;
    for (int64_t c = 0; c < n; ++c) sum += errors[c];
    if (sum < least) {
      least = sum;
      best = tried;
    }
  }
  return best;
}

void ClipRow(const float* w, const Curvature& curvature, int64_t row,
             QuantizedMatrix& m) {
  const int64_t group = GroupColumns(m.format, m.columns);
  for (int64_t at = 0; at < m.columns; at += group) {
    const GroupScale s =
        SearchScale(w + at, curvature.weight.data() + at, group, m.format);
    const int64_t g = row * m.num_groups() + at / group;
    m.scale[g] = s.scale;
    m.zero[g] = s.zero;
    for (int64_t c = at; c < at + group; ++c) {
      m.code[row * m.columns + c] =
          CodeOf(w[c], Widen(s.scale), s.zero, m.format.max_code());
    }
  }
}

void FeedbackRows(const float* w, const Curvature& curvature, int64_t first,
                  int64_t count, QuantizedMatrix& m) {
  const int64_t k = m.columns, group = GroupColumns(m.format, k);
  std::vector<float> error(count * k), target(count * group);
  for (int64_t at = 0; at < k; at += group) {
    // What the columns before ask of this group.
    for (int64_t row = 0; row < count; ++row) {
      std::copy_n(w + row * k + at, group, target.data() + row * group);
    }
    GemmArgs<float> g;
    g.transpose_b = true;
    g.m = count;
    g.n = g.ldc = group;
    g.k = at;
    g.lda = g.ldb = k;
    g.a = error.data();
    g.b = curvature.feedback.data() + at * k;
    g.beta = 1;
    g.c = target.data();
    Gemm(g);
    for (int64_t row = 0; row < count; ++row) {
      FeedbackGroup(w + row * k, curvature, at, target.data() + row * group,
                    error.data() + row * k, first + row, m);
    }
  }
}

}  // namespace strata
