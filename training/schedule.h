// The learning rate's schedule: linear warm-up, then a cosine.

#ifndef TRAINING_SCHEDULE_H_
#define TRAINING_SCHEDULE_H_

#include <cstdint>

#include "training/config.pb.h"

namespace strata {

// The rate of step `step`, from 1: rises linearly to train.learning_rate at
// warmup_steps, then falls by half a cosine to min_learning_rate_ratio of it at
// train.steps, and stays there.
double LearningRate(const TrainConfig& train, int64_t step);

}  // namespace strata

#endif  // TRAINING_SCHEDULE_H_
