// How many parameters a model has, in closed form and by part.

#ifndef CORE_MODEL_COUNT_H_
#define CORE_MODEL_COUNT_H_

#include <cstdint>

#include "core/model/config.pb.h"

namespace strata {

// State that no gradient reaches (load biases, their averages) is not counted.
struct ParameterCount {
  int64_t embedding = 0;
  int64_t attention = 0;
  int64_t dense = 0;           // Feed-forward of the dense layers.
  int64_t routed_experts = 0;  // With the projections of `combine: CONCAT`.
  int64_t shared_experts = 0;
  int64_t gates = 0;   // Their norms are under `norms`.
  int64_t norms = 0;   // All RMS gains.
  int64_t output = 0;  // 0 if it is the embedding table.
  int64_t mtp = 0;     // The prediction module's projection; its layer is
                       // under the parts of layers.

  int64_t total() const {
    return embedding + attention + dense + routed_experts + shared_experts +
           gates + norms + output + mtp;
  }
};

// `config` must be valid (core/model/config.h).
ParameterCount CountParametersByPart(const ModelConfig& config);
int64_t CountParameters(const ModelConfig& config);

// The same to a double's precision, for any config whose dimensions are each
// within Validate's bounds while their product may be beyond 64 bits.
double EstimateParameters(const ModelConfig& config);

// Whether a layer's feed-forward half is dense; how many of them there are.
bool IsDenseLayer(const ModelConfig& config, int64_t layer);
int64_t NumDenseLayers(const ModelConfig& config);

// Routed experts of one MoE layer, and how many of them a token uses at most.
int64_t NumRoutedExperts(const ModelConfig& config);
int64_t MaxActiveExperts(const ModelConfig& config);

// Experts of a tier of `num_experts` that the coarse stage lets through.
int64_t CoarseSurvivors(const HierarchicalRouterConfig& router,
                        int64_t num_experts);

}  // namespace strata

#endif  // CORE_MODEL_COUNT_H_
