// What a training step and a validation report.

#ifndef TRAINING_METRICS_H_
#define TRAINING_METRICS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "nlohmann/json.hpp"

namespace strata {

// A number a tier; up to 8 tiers are no allocation, so that a step has none.
using TierShares = absl::InlinedVector<double, 8>;

// A number a layer, likewise up to 64 layers.
using LayerGradNorms = absl::InlinedVector<double, 64>;

// How the experts were used, over a window of tokens. Definitions: SPEC.md,
// "Words used below"; core/parallel/load_stats.h.
struct ExpertUse {
  double active_share = 0;  // Experts a token and MoE layer, over the layer's.
  double flops_per_token = 0;  // Of experts' products, shared ones too.
  double gini = 0;           // Of the load of a gate's experts, gates averaged.
  double utilisation = 0;    // Mean over max load of a gate, gates averaged.
  double starved_share = 0;  // Experts under a tenth of their gate's mean.
  TierShares tier_tokens;    // Share of tokens that reach each tier.
};

// Experts of a gate that moved after a step (training/balance).
struct ExpertMove {
  int64_t layer = 0;
  int64_t tier = 0;
  int64_t experts = 0;  // That a rank got from another, copies too.
  int64_t bytes = 0;    // Of these, in an ep group.
  double seconds = 0;
  // Of rank utilisation, for the gate's loads of late.
  double spread_before = 0;
  double spread_after = 0;
  int64_t slots_left = 0;  // Not yet as planned: for the next steps.
};

struct StepMetrics {
  int64_t step = 0;       // That was just done; the first is 1.
  double loss = 0;        // Cross-entropy, nats a token.
  double total_loss = 0;  // With the router's own losses.
  double learning_rate = 0;
  double grad_norm = 0;  // Before clipping.
  // Of each layer's parameters, before clipping: core/monitor/gradient_flow.h.
  LayerGradNorms layer_grad_norms;
  int64_t tokens = 0;
  double seconds = 0;  // With those of the moves.
  double waited = 0;   // Of these, this rank's for others.
  ExpertUse experts;
  std::vector<ExpertMove> moves;

  double tokens_per_second() const { return tokens / seconds; }
};

struct DomainMetrics {
  std::string name;
  int64_t tokens = 0;
  double nll = 0;     // Nats a token.
  int64_t bytes = 0;  // Of the text that the tokens are.
  double bits_per_byte = 0;
  double accuracy = 0;  // Share of tokens that greedy decoding says.
};

struct RouterLoad {
  int64_t layer = 0;
  int64_t tier = 0;
  std::vector<int64_t> load;  // Rows of each expert.
};

struct ValidationMetrics {
  int64_t step = 0;
  double nll = 0;  // Nats a token; the mean over domains, each counting alike.
  double bits_per_byte = 0;  // Mean over domains too.
  double accuracy = 0;
  std::vector<DomainMetrics> domains;
  ExpertUse experts;
  std::vector<RouterLoad> loads;  // What `experts` was computed from.
  double seconds = 0;
};

nlohmann::json ToJson(const ExpertUse& use);
nlohmann::json ToJson(const ExpertMove& move);
// Without the moves.
nlohmann::json ToJson(const StepMetrics& metrics);
nlohmann::json ToJson(const ValidationMetrics& metrics);

}  // namespace strata

#endif  // TRAINING_METRICS_H_
