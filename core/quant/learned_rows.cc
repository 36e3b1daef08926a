// A turn of a row w, with w' = sum over groups g of scale_g part_g, part_g
// being the codes less the zero:
//
//   part  --H-->  images H part_g, of all rows at once: H is read once for them
//   scales        least squares: w' is linear in them
//   gradient      H (w - w') = H w - sum of scale_g H part_g
//   codes         one by one to where the error is least; each one that moves
//                 moves the gradient by a column of H

#include "core/quant/learned_rows.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <utility>
#include <vector>

#include "core/cpu/gemm.h"
#include "core/cpu/vector_math.h"
#include "core/quant/format.h"
#include "core/quant/quantized_matrix.h"
#include "core/quant/row_calibration.h"
#include "core/tensor/bfloat16.h"

namespace strata {
namespace {

// Turns of scales and codes, and sweeps over codes in a turn, at most.
constexpr int kMaxTurns = 6;
constexpr int kMaxSweeps = 4;
// Numbers of images at a time, 16 MB, if a row has no more.
constexpr int64_t kMaxImages = int64_t{1} << 22;

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

class Learner {
 public:
  Learner(const float* w, const Curvature& curvature, int64_t first,
          int64_t count, QuantizedMatrix& m)
      : w_(w),
        h_(curvature.moment.data()),
        count_(count),
        k_(m.columns),
        groups_(m.num_groups()),
        group_(GroupColumns(m.format, m.columns)),
        max_code_(m.format.max_code()),
        code_(m.code.data() + first * k_),
        scale_(m.scale.data() + first * groups_),
        zero_(m.zero.data() + first * groups_),
        hw_(count * k_),
        part_(count * k_),
        image_(groups_ * count * k_),
        error_(k_),
        gradient_(k_) {
    GemmArgs<float> g = ByCurvature(w_, count_, 0, k_);
    g.c = hw_.data();
    Gemm(g);
  }

  void Run() {
    std::vector<int64_t> rows(count_);
    std::iota(rows.begin(), rows.end(), 0);
    for (int turn = 0; turn < kMaxTurns && !rows.empty(); ++turn) {
      MakeImages(rows);
      std::vector<int64_t> improved;
      for (size_t i = 0; i < rows.size(); ++i) {
        if (Improve(rows[i], static_cast<int64_t>(i))) {
          improved.push_back(rows[i]);
        }
      }
      rows = std::move(improved);
    }
  }

 private:
  // Columns [at, at + n) of `rows` rows at x, by these rows of H.
  GemmArgs<float> ByCurvature(const float* x, int64_t rows, int64_t at,
                              int64_t n) const {
    GemmArgs<float> g;
    g.m = rows;
    g.n = g.lda = g.ldb = g.ldc = k_;
    g.k = n;
    g.a = x + at;
    g.b = h_ + at * k_;
    return g;
  }

  float PartOf(int64_t row, int64_t c) const {
    return static_cast<float>(code_[row * k_ + c] -
                              zero_[row * groups_ + c / group_]);
  }

  // Of rows, in their order: part, and [groups, rows] what H makes of each
  // group's.
  void MakeImages(const std::vector<int64_t>& rows) {
    const auto n = static_cast<int64_t>(rows.size());
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t c = 0; c < k_; ++c) part_[i * k_ + c] = PartOf(rows[i], c);
    }
    for (int64_t g = 0; g < groups_; ++g) {
      GemmArgs<float> image = ByCurvature(part_.data(), n, g * group_, group_);
      image.c = image_.data() + g * n * k_;
      Gemm(image);
    }
    step_ = n * k_;
  }
  const float* Image(int64_t i, int64_t g) const {
    return image_.data() + g * step_ + i * k_;
  }

  // Of row `row`, the `i`th that has images, from its scales: error and
  // gradient. Returns the error's energy.
  double Refresh(int64_t row, int64_t i) {
    const VectorMath<float>& vec = VectorMath<float>::Get();
    const float* const part = part_.data() + i * k_;
    std::copy_n(hw_.data() + row * k_, k_, gradient_.data());
    for (int64_t g = 0; g < groups_; ++g) {
      const float scale = Widen(scale_[row * groups_ + g]);
      vec.axpy(-scale, Image(i, g), k_, gradient_.data());
      for (int64_t c = g * group_; c < (g + 1) * group_; ++c) {
        error_[c] = w_[row * k_ + c] - part[c] * scale;
      }
    }
    return Energy();
  }
  double Energy() const {
    double energy = 0;
    for (int64_t c = 0; c < k_; ++c) {
      energy += double{gradient_[c]} * error_[c];
    }
    return energy;
  }

  // One turn; whether another one may be worth it.
  bool Improve(int64_t row, int64_t i) {
    const double before = Refresh(row, i);
    if (ImproveScales(row, i) && !(Refresh(row, i) <= before)) {
      std::copy(old_scale_.begin(), old_scale_.end(), scale_ + row * groups_);
      Refresh(row, i);
    }
    ImproveCodes(row);
    return Energy() <= 0.999 * before;
  }

  // False: nothing is known of them.
  bool ImproveScales(int64_t row, int64_t i) {
    const VectorMath<float>& vec = VectorMath<float>::Get();
    const float* const part = part_.data() + i * k_;
    std::vector<double> normal(groups_ * groups_), right(groups_);
    for (int64_t g = 0; g < groups_; ++g) {
      // Part H w, as H is symmetric.
      right[g] = vec.dot(part + g * group_, hw_.data() + row * k_ + g * group_,
                         group_);
      for (int64_t f = 0; f < groups_; ++f) {
        normal[g * groups_ + f] =
            vec.dot(Image(i, g) + f * group_, part + f * group_, group_);
      }
      // A group of zeros has no say.
      normal[g * groups_ + g] += 1e-12 + 1e-6 * normal[g * groups_ + g];
    }
    if (!Solve(normal, right)) return false;
    BFloat16* const scale = scale_ + row * groups_;
    old_scale_.assign(scale, scale + groups_);
    for (int64_t g = 0; g < groups_; ++g) {
      // Negative or wild scales are signs of a system that says nothing.
      const float now = Widen(scale[g]);
      const auto wanted = static_cast<float>(right[g]);
      if (wanted > 0.3f * now && wanted < 3 * now) {
        scale[g] = RoundToBFloat16(wanted);
      }
    }
    return true;
  }

  // Each code in turn to where the error is least, the others standing.
  void ImproveCodes(int64_t row) {
    const VectorMath<float>& vec = VectorMath<float>::Get();
    for (int sweep = 0; sweep < kMaxSweeps; ++sweep) {
      int64_t changes = 0;
      for (int64_t c = 0; c < k_; ++c) {
        const int64_t g = row * groups_ + c / group_;
        const float scale = Widen(scale_[g]);
        if (scale == 0) continue;
        const float now = PartOf(row, c) * scale;
        const float* const column = h_ + c * k_;
        const uint8_t code =
            CodeOf(now + gradient_[c] / column[c], scale, zero_[g], max_code_);
        if (code == code_[row * k_ + c]) continue;
        code_[row * k_ + c] = code;
        const float step = PartOf(row, c) * scale - now;
        error_[c] -= step;
        vec.axpy(-step, column, k_, gradient_.data());
        ++changes;
      }
      if (changes == 0) break;
    }
  }

  const float* const w_;
  const float* const h_;
  const int64_t count_, k_, groups_, group_;
  const int max_code_;
  uint8_t* const code_;
  BFloat16* const scale_;
  const uint8_t* const zero_;
  std::vector<float> hw_;     // [count, k]  H w
  std::vector<float> part_;   // [rows, k] of those of a turn
  std::vector<float> image_;  // [groups, rows, k]
  int64_t step_ = 0;          // From one group's images to the next one's.
  // Of the row that is improved.
  std::vector<BFloat16> old_scale_;
  std::vector<float> error_;     // w - w'
  std::vector<float> gradient_;  // H (w - w')
};

}  // namespace

void LearnRows(const float* w, const Curvature& curvature, int64_t first,
               int64_t count, QuantizedMatrix& m) {
  const int64_t k = m.columns;
  const int64_t together =
      std::max<int64_t>(1, kMaxImages / (m.num_groups() * k));
  for (int64_t i = 0; i < count; i += together) {
    Learner(w + i * k, curvature, first + i, std::min(together, count - i), m)
        .Run();
  }
}

}  // namespace strata
