// What a step of decoding must at least move and compute: what benchmarks hold
// the engine's rates against.

#ifndef SERVING_ENGINE_STEP_COST_H_
#define SERVING_ENGINE_STEP_COST_H_

#include <cstdint>

#include "core/base/thread_pool.h"
#include "core/model/config.pb.h"
#include "core/runtime/state_store.h"

namespace strata {

struct StepCost {
  double bytes = 0;
  double flops = 0;
};

// Of a step that decodes `batch` sequences of `context` tokens each.
//
// Bytes are the weights that it reads, in the dtype that `state` holds them in
// (of experts those that so many tokens touch if each chooses at random), and
// the keys and values in F32. FLOPs are of products and attention; of a gate
// that may choose fewer experts, as if it chose all that it may.
StepCost CostOfStep(const ModelConfig& config, const StateStore& state,
                    int64_t batch, int64_t context);

// What this machine does, measured now.
struct MachineLimits {
  double bandwidth = 0;  // Bytes per second; see core/testing/read_bandwidth.h.
  // FLOP/s of a large product on all threads: the better of the BLAS and of
  // the engine's own kernel on weights in the caches.
  double peak = 0;
};
MachineLimits MeasureMachine(ThreadPool& pool);

// Tokens per second that the machine allows, each step taking
// max(bytes / bandwidth, FLOPs / peak).
double RateLimit(const StepCost& cost, int64_t batch,
                 const MachineLimits& machine);

}  // namespace strata

#endif  // SERVING_ENGINE_STEP_COST_H_
