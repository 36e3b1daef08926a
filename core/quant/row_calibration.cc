#include "core/quant/row_calibration.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

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
// Turns of scales and codes, and sweeps over codes in a turn, at most.
constexpr int kMaxTurns = 6;
constexpr int kMaxSweeps = 4;

float Dot(const float* a, const float* b, int64_t n) {
  return VectorMath<float>::Get().dot(a, b, n);
}

// The reverse Cholesky factor of h [n, n]: R upper, h = R R^T.
std::vector<double> UpperFactor(const std::vector<float>& h, int64_t n) {
  const VectorMath<double>& vec = VectorMath<double>::Get();
  std::vector<double> r(n * n);
  for (int64_t j = n - 1; j >= 0; --j) {
    double* const rj = r.data() + j * n;
    const int64_t behind = n - 1 - j;
    const double left = h[j * n + j] - vec.dot(rj + j + 1, rj + j + 1, behind);
    // Damping keeps it above zero, but for rounding.
    rj[j] = std::sqrt(std::max(left, 1e-12 * h[j * n + j] + 1e-300));
    for (int64_t i = 0; i < j; ++i) {
      double* const ri = r.data() + i * n;
      ri[j] = (h[i * n + j] - vec.dot(ri + j + 1, rj + j + 1, behind)) / rj[j];
    }
  }
  return r;
}

// Solves a x = b, a [n, n] positive definite, in place; false if it is not.
bool Solve(std::vector<double>& a, std::vector<double>& b) {
  const auto n = static_cast<int64_t>(b.size());
  for (int64_t j = 0; j < n; ++j) {
    for (int64_t i = j; i < n; ++i) {
      double left = a[i * n + j];
      for (int64_t l = 0; l < j; ++l) left -= a[i * n + l] * a[j * n + l];
      if (i == j) {
        if (!(left > 0)) return false;
        a[j * n + j] = std::sqrt(left);
      } else {
        a[i * n + j] = left / a[j * n + j];
      }
    }
  }
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t l = 0; l < i; ++l) b[i] -= a[i * n + l] * b[l];
    b[i] /= a[i * n + i];
  }
  for (int64_t i = n - 1; i >= 0; --i) {
    for (int64_t l = i + 1; l < n; ++l) b[i] -= a[l * n + i] * b[l];
    b[i] /= a[i * n + i];
  }
  return true;
}

// A row that is being learned: its codes, scales and error.
class Learner {
 public:
  Learner(const float* w, const Curvature& curvature, int64_t row,
          QuantizedMatrix& m)
      : w_(w),
        h_(curvature.moment.data()),
        k_(m.columns),
        groups_(m.num_groups()),
        group_(GroupColumns(m.format, m.columns)),
        max_code_(m.format.max_code()),
        code_(m.code.data() + row * k_),
        scale_(m.scale.data() + row * groups_),
        zero_(m.zero.data() + row * groups_),
        error_(k_),
        gradient_(k_) {
    Refresh();
  }

  void Run() {
    for (int turn = 0; turn < kMaxTurns; ++turn) {
      const double before = energy_;
      ImproveScales();
      ImproveCodes();
      if (energy_ > 0.999 * before) return;
    }
  }

 private:
  float Number(int64_t c) const {
    const int64_t g = c / group_;
    return static_cast<float>(code_[c] - zero_[g]) * Widen(scale_[g]);
  }

  // Error, its product with H, and its energy, from codes and scales.
  void Refresh() {
    for (int64_t c = 0; c < k_; ++c) error_[c] = w_[c] - Number(c);
    energy_ = 0;
    for (int64_t c = 0; c < k_; ++c) {
      gradient_[c] = Dot(h_ + c * k_, error_.data(), k_);
      energy_ += double{gradient_[c]} * error_[c];
    }
  }

  // Least squares: w' is linear in its scales.
  void ImproveScales() {
    std::vector<float> part(k_), image(groups_ * k_);
    for (int64_t c = 0; c < k_; ++c) {
      part[c] = static_cast<float>(code_[c] - zero_[c / group_]);
    }
    for (int64_t g = 0; g < groups_; ++g) {
      for (int64_t c = 0; c < k_; ++c) {
        image[g * k_ + c] =
            Dot(h_ + c * k_ + g * group_, part.data() + g * group_, group_);
      }
    }
    std::vector<double> normal(groups_ * groups_), right(groups_);
    for (int64_t g = 0; g < groups_; ++g) {
      right[g] = Dot(image.data() + g * k_, w_, k_);
      for (int64_t f = 0; f < groups_; ++f) {
        normal[g * groups_ + f] = Dot(image.data() + g * k_ + f * group_,
                                      part.data() + f * group_, group_);
      }
      // A group of zeros has no say.
      normal[g * groups_ + g] += 1e-12 + 1e-6 * normal[g * groups_ + g];
    }
    if (!Solve(normal, right)) return;
    const std::vector<BFloat16> old(scale_, scale_ + groups_);
    const double before = energy_;
    for (int64_t g = 0; g < groups_; ++g) {
      // Negative or wild scales are signs of a system that says nothing.
      const float now = Widen(old[g]);
      const auto wanted = static_cast<float>(right[g]);
      if (wanted > 0.3f * now && wanted < 3 * now) {
        scale_[g] = RoundToBFloat16(wanted);
      }
    }
    Refresh();
    if (energy_ <= before) return;
    std::copy(old.begin(), old.end(), scale_);
    Refresh();
  }

  // Each code in turn to where the error is least, the others standing.
  void ImproveCodes() {
    const VectorMath<float>& vec = VectorMath<float>::Get();
    for (int sweep = 0; sweep < kMaxSweeps; ++sweep) {
      int64_t changes = 0;
      for (int64_t c = 0; c < k_; ++c) {
        const int64_t g = c / group_;
        const float scale = Widen(scale_[g]);
        if (scale == 0) continue;
        const float now = Number(c);
        const float* const column = h_ + c * k_;
        const uint8_t code =
            CodeOf(now + gradient_[c] / column[c], scale, zero_[g], max_code_);
        if (code == code_[c]) continue;
        code_[c] = code;
        const float step = Number(c) - now;
        error_[c] -= step;
        vec.axpy(-step, column, k_, gradient_.data());
        ++changes;
      }
      if (changes == 0) break;
    }
    Refresh();
  }

  const float* const w_;
  const float* const h_;
  const int64_t k_, groups_, group_;
  const int max_code_;
  uint8_t* const code_;
  BFloat16* const scale_;
  const uint8_t* const zero_;
  std::vector<float> error_;     // w - w'
  std::vector<float> gradient_;  // H (w - w')
  double energy_ = 0;
};

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

void FeedbackRow(const float* w, const Curvature& curvature, int64_t row,
                 QuantizedMatrix& m) {
  const int64_t k = m.columns, group = GroupColumns(m.format, k);
  std::vector<float> error(k), target(group);
  for (int64_t at = 0; at < k; at += group) {
    // What the columns before ask of this group.
    for (int64_t c = 0; c < group; ++c) {
      target[c] = w[at + c] + Dot(curvature.feedback.data() + (at + c) * k,
                                  error.data(), at);
    }
    const GroupScale s = SearchScale(
        target.data(), curvature.weight.data() + at, group, m.format);
    const int64_t g = row * m.num_groups() + at / group;
    m.scale[g] = s.scale;
    m.zero[g] = s.zero;
    const float scale = Widen(s.scale);
    for (int64_t c = 0; c < group; ++c) {
      const float* const feedback =
          curvature.feedback.data() + (at + c) * k + at;
      const float wanted = target[c] + Dot(feedback, error.data() + at, c);
      const uint8_t code = CodeOf(wanted, scale, s.zero, m.format.max_code());
      m.code[row * k + at + c] = code;
      error[at + c] = w[at + c] - static_cast<float>(code - s.zero) * scale;
    }
  }
}

void LearnRow(const float* w, const Curvature& curvature, int64_t row,
              QuantizedMatrix& m) {
  Learner(w, curvature, row, m).Run();
}

}  // namespace strata
