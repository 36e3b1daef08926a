// How long a step of so many tokens takes: the line through the steps that
// were, of which later ones count more (least squares; a step's weight falls
// by a hundredth with each that follows).
//
//   seconds = fixed + of_token * tokens, both at least 0

#ifndef SERVING_ENGINE_SCHEDULE_STEP_TIMES_H_
#define SERVING_ENGINE_SCHEDULE_STEP_TIMES_H_

#include <cstdint>

namespace strata {

class StepTimes {
 public:
  void Add(int64_t tokens, double seconds);

  // Before the first step a token is taken to take a millisecond.
  double Of(int64_t tokens) const {
    return fixed_ + of_token_ * static_cast<double>(tokens);
  }

  // Of a prompt with nobody else there, in steps of at most `max_tokens`.
  double OfPrompt(int64_t tokens, int64_t max_tokens) const {
    return Of(tokens) + fixed_ * static_cast<double>((tokens - 1) / max_tokens);
  }

 private:
  double fixed_ = 0, of_token_ = 1e-3;
  // Weighted sums over steps, x being tokens and y seconds.
  double weight_ = 0, x_ = 0, y_ = 0, xx_ = 0, xy_ = 0;
};

}  // namespace strata

#endif  // SERVING_ENGINE_SCHEDULE_STEP_TIMES_H_
