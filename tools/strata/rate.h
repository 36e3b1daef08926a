// The rate of the latest steps.

#ifndef TOOLS_STRATA_RATE_H_
#define TOOLS_STRATA_RATE_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <utility>

namespace strata {

// Tokens per second of training alone: validations and checkpoints, which lie
// between steps, do not count.
class RecentRate {
 public:
  void Add(int64_t tokens, double seconds) {
    steps_.emplace_back(tokens, seconds);
    if (steps_.size() > kSteps) steps_.pop_front();
  }

  double PerSecond() const {
    double tokens = 0;
    double seconds = 0;
    for (const auto& [step_tokens, step_seconds] : steps_) {
      tokens += static_cast<double>(step_tokens);
      seconds += step_seconds;
    }
    return seconds > 0 ? tokens / seconds : 0;
  }

 private:
  static constexpr size_t kSteps = 20;
  std::deque<std::pair<int64_t, double>> steps_;
};

}  // namespace strata

#endif  // TOOLS_STRATA_RATE_H_
