// Where the time of a step goes: the rows of its breakdown.

#ifndef SIM_WORKLOAD_STEP_PARTS_H_
#define SIM_WORKLOAD_STEP_PARTS_H_

#include <array>

namespace strata::sim {

// In the order in which they are shown. The first four are the families of
// kernels (kernel_times.h).
enum Part {
  kMatMulPart,
  kExpertsPart,
  kAttentionPart,
  kElementwisePart,
  kRecomputePart,
  kLentSmsPart,
  kTensorPart,
  kExpertCommPart,
  kContextPart,
  kShardPart,
  kHostPart,
  kCountsPart,
  kHopPart,
  kStragglerPart,
  kBubblePart,
  kDataPart,
  kOptimizerPart,
  kBetweenPart,
  kNumParts,
};

inline constexpr const char* kPartNames[kNumParts] = {
    "dense products",
    "experts",
    "attention",
    "norms, gates, loss",
    "recomputation",
    "SMs lent to communication",
    "exposed tensor parallel",
    "exposed dispatch and combine",
    "exposed context parallel",
    "exposed gathering of weights",
    "waiting for the host",
    "waiting for experts' counts",
    "hops of the pipeline",
    "slow ranks' own",
    "pipeline idle",
    "exposed gradients and weights",
    "optimizer",
    "host between steps",
};

using Parts = std::array<double, kNumParts>;  // Seconds.

inline double Sum(const Parts& parts) {
  double sum = 0;
  for (const double part : parts) sum += part;
  return sum;
}

inline Parts& operator+=(Parts& a, const Parts& b) {
  for (int i = 0; i < kNumParts; ++i) a[i] += b[i];
  return a;
}

}  // namespace strata::sim

#endif  // SIM_WORKLOAD_STEP_PARTS_H_
