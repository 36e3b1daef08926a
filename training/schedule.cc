#include "training/schedule.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "core/model/config.pb.h"
#include "training/config.pb.h"

namespace strata {

double LearningRate(const TrainConfig& train, int64_t step) {
  const double peak = train.learning_rate();
  if (step < train.warmup_steps()) {
    return peak * static_cast<double>(step) /
           static_cast<double>(train.warmup_steps());
  }
  const auto span = static_cast<double>(
      std::max<int64_t>(1, train.steps() - train.warmup_steps()));
  const double done =
      std::min(1.0, static_cast<double>(step - train.warmup_steps()) / span);
  const double ratio = train.min_learning_rate_ratio();
  return peak * (ratio + (1 - ratio) * 0.5 * (1 + std::cos(M_PI * done)));
}

double AnnealedTau(const HierarchicalRouterConfig& router,
                   const TrainConfig& train, int64_t step) {
  const auto steps = static_cast<double>(train.steps());
  const double span = router.tau_anneal() * steps;
  const double left = std::max(0.0, steps - static_cast<double>(step));
  if (left >= span) return router.tau_start();
  return router.tau() + (router.tau_start() - router.tau()) * left / span;
}

}  // namespace strata
