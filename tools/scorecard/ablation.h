// What each part of the hierarchical router is worth: the model with one of its
// mechanisms off, or in the form that the specification leaves open, beside the
// whole one.

#ifndef TOOLS_SCORECARD_ABLATION_H_
#define TOOLS_SCORECARD_ABLATION_H_

#include <cstdint>
#include <string>
#include <vector>

#include "core/model/config.pb.h"
#include "nlohmann/json.hpp"
#include "tools/scorecard/runs.h"
#include "tools/scorecard/variants.h"
#include "training/demo/report.h"

namespace strata {

struct Ablation {
  Variant variant;
  std::string what;  // "no coarse filter"
};

// The whole model: what the others are compared with.
inline constexpr char kWhole[] = "whole";

// The whole model first; those that would equal it are left out. `fixed_k`
// experts a tier stand for no dynamic number of them.
std::vector<Ablation> AblationsOf(const ModelConfig& model, int64_t fixed_k);

// The nearest whole number of experts that a token uses in a tier of `model`,
// from runs of it; 1 at least.
int64_t MeanExpertsPerTier(const ModelConfig& model,
                           const std::vector<ScoredRun>& runs);

struct AblationRow {
  std::string name;
  std::string what;
  int64_t parameters = 0;
  Spread bits_per_byte;
  Spread more_bits;  // Than the whole model, seed by seed.
  Spread flops_per_token;
  Spread active_share;
  Spread gini;
  Spread utilisation;
  Spread milliseconds;  // Of a step of training.
};

// A row each, in their order. `steps` is that of every run.
std::vector<AblationRow> AblationRows(const std::vector<Ablation>& ablations,
                                      const std::vector<ScoredRun>& runs,
                                      int64_t steps);

nlohmann::json ToJson(const AblationRow& row);

}  // namespace strata

#endif  // TOOLS_SCORECARD_ABLATION_H_
