// What a monitor of experts sees of a meter.

#ifndef TRAINING_BALANCE_GATE_USE_H_
#define TRAINING_BALANCE_GATE_USE_H_

#include <vector>

#include "core/monitor/expert_use.h"
#include "training/expert_meter.h"

namespace strata {

// The gates of a model, and what they did since the meter was reset.
std::vector<int> NumExperts(const ExpertMeter& meter);
std::vector<GateUse> GatesOf(const ExpertMeter& meter);

}  // namespace strata

#endif  // TRAINING_BALANCE_GATE_USE_H_
