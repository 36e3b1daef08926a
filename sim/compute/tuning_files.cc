#include "sim/compute/tuning_files.h"

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "sim/compute/kernel_shape.h"

namespace strata {

bool TuningFiles::Look(const Weights& weights, const std::string& experts,
                       const Owner& owner) {
  std::vector<File>& files = files_[weights];
  bool found = false;
  for (const File& file : files) {
    if (!absl::StartsWith(file.experts, experts)) continue;
    if (file.owner != owner) return false;
    found = true;
  }
  if (!found) files.push_back({experts, owner});
  return true;
}

bool TuningFiles::IsTuned(const MoeLayer& layer,
                          absl::string_view distribution) {
  const Weights weights = {layer.hidden, layer.inner / layer.tensor_parallel,
                           layer.precision};
  const std::string experts =
      absl::StrCat(layer.experts / layer.expert_parallel);
  const Owner owner = {layer.top_k, layer.tensor_parallel,
                       layer.expert_parallel, layer.gated};
  std::vector<Run>& runs =
      runs_[{weights, experts, owner, std::string(distribution)}];
  const auto run = std::find_if(runs.rbegin(), runs.rend(), [&](const Run& r) {
    return r.tokens < layer.tokens;
  });
  if (run != runs.rend()) {
    run->tokens = layer.tokens;
    return run->tuned;
  }
  const bool tuned = Look(weights, experts, owner);
  runs.push_back({layer.tokens, tuned});
  return tuned;
}

void TuningFiles::NextMachine() {
  files_.clear();
  runs_.clear();
}

}  // namespace strata
