// What changes by step: the learning rate (linear warm-up, then a cosine) and
// the router's tau.

#ifndef TRAINING_SCHEDULE_H_
#define TRAINING_SCHEDULE_H_

#include <cstdint>

#include "core/model/config.pb.h"
#include "training/config.pb.h"

namespace strata {

// The rate of step `step`, from 1: rises linearly to train.learning_rate at
// warmup_steps, then falls by half a cosine to min_learning_rate_ratio of it at
// train.steps, and stays there.
double LearningRate(const TrainConfig& train, int64_t step);

// The tau of step `step`, from 1, of a router with tau_start: that, until it
// falls linearly over the last tau_anneal of train.steps, to router.tau at the
// last.
double AnnealedTau(const HierarchicalRouterConfig& router,
                   const TrainConfig& train, int64_t step);

}  // namespace strata

#endif  // TRAINING_SCHEDULE_H_
