#include "serving/engine/schedule/step_times.h"

#include <algorithm>
#include <cstdint>

namespace strata {
namespace {

constexpr double kForgets = 0.01;
// Steps that differ by less say nothing of a slope.
constexpr double kMinSpread = 4;  // Tokens.

}  // namespace

void StepTimes::Add(int64_t tokens, double seconds) {
  if (tokens <= 0 || !(seconds > 0)) return;
  const auto x = static_cast<double>(tokens);
  for (double* const sum : {&weight_, &x_, &y_, &xx_, &xy_}) {
    *sum *= 1 - kForgets;
  }
  weight_ += 1;
  x_ += x;
  y_ += seconds;
  xx_ += x * x;
  xy_ += x * seconds;
  const double mean_x = x_ / weight_, mean_y = y_ / weight_;
  const double variance = xx_ / weight_ - mean_x * mean_x;
  // Through zero, until steps differ.
  of_token_ = mean_y / mean_x;
  if (variance > kMinSpread * kMinSpread) {
    const double slope = (xy_ / weight_ - mean_x * mean_y) / variance;
    of_token_ = std::clamp(slope, 0.0, of_token_);
  }
  fixed_ = std::max(0.0, mean_y - of_token_ * mean_x);
}

}  // namespace strata
