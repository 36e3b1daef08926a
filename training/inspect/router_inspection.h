// A router inspection: what each expert of a model on disk was used for, by
// domain of the text.
//
//   validation windows of each domain --> model, a window a run
//     --> rows [windows][experts] of each gate --> specialisation.h
//
// A figure of a tier is the mean over those of its layers that any token
// reached: it says whether the first tier is shared and the deeper ones
// specialise. Flat models have one tier. Tiers count from 0.

#ifndef TRAINING_INSPECT_ROUTER_INSPECTION_H_
#define TRAINING_INSPECT_ROUTER_INSPECTION_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/model/config.pb.h"
#include "nlohmann/json.hpp"
#include "training/data/corpus.h"
#include "training/inspect/specialisation.h"

namespace strata {

struct InspectOptions {
  int64_t tokens_per_domain = 65536;  // At most.
  int num_threads = 1;
  int num_shuffles = 200;
  uint64_t seed = 1;  // Of the shuffles.
};

struct InspectedDomain {
  std::string name;
  int64_t windows = 0;
  int64_t tokens = 0;
};

// One gate.
struct InspectedGate {
  int64_t layer = 0;
  int64_t tier = 0;
  RowCounts rows;                // [domains][experts]
  int num_domains = 0;           // That have rows.
  std::vector<int64_t> reached;  // [domains], tokens that came to the gate
  std::vector<ExpertProfile> experts;
  Specialisation specialisation;
  std::vector<double> shuffled_bits;  // [shuffles]
  NullTest null;

  // The expert's load over the mean of its gate.
  double relative_load(int expert) const;
  bool starved(int expert) const;  // As core/parallel/load_stats.h has it.
  int num_starved() const;
  // How much of the expert's load is the domain's, over an even share.
  double relative_share(int expert, int domain) const;
};

// Means over the layers of a tier.
struct InspectedTier {
  int64_t tier = 0;
  int num_layers = 0;
  int num_experts = 0;  // Of all layers.
  int num_starved = 0;
  Specialisation specialisation;
  double bound_bits = 0;
  double normalised = 0;
  NullTest null;                // Of the mean: its shuffles are means too.
  std::vector<double> reached;  // [domains], share of the domain's tokens
};

struct RouterInspection {
  std::string model;  // The folder.
  std::string name;   // The config's.
  int64_t seq_len = 0;
  int num_shuffles = 0;
  std::vector<InspectedDomain> domains;
  std::vector<InspectedGate> gates;  // By layer, then tier.
  std::vector<InspectedTier> tiers;
  std::vector<std::string> notes;  // What bears on how to read it.
  nlohmann::json manifest;
};

// A gate of which the rows are known. `windows` are those of its text.
InspectedGate InspectGate(int64_t layer, int64_t tier,
                          const WindowRows& windows,
                          std::vector<int64_t> reached,
                          const InspectOptions& options);

// An expert of a gate.
struct ExpertPlace {
  const InspectedGate* gate = nullptr;
  int expert = 0;

  const ExpertProfile& profile() const { return gate->experts[expert]; }
  int top_domain() const;  // Of which it has the largest share.
};

// The `count` experts of a tier that say most of the domain, those first;
// without the starved, of which too little was seen.
std::vector<ExpertPlace> MostSpecialised(
    const std::vector<InspectedGate>& gates, int64_t tier, size_t count);
// The tier's starved experts, by layer.
std::vector<ExpertPlace> Starved(const std::vector<InspectedGate>& gates,
                                 int64_t tier);

// In the order of the tiers. `domains` are those of `reached`.
std::vector<InspectedTier> AverageTiers(
    const std::vector<InspectedGate>& gates,
    const std::vector<InspectedDomain>& domains);

// Runs the model in `folder` over the validation part of `corpus`.
//
// Returns INVALID_ARGUMENT if the model has no experts, does not read bytes, or
// the corpus has one domain only, and the errors of loading.
absl::StatusOr<RouterInspection> InspectRouter(const std::string& folder,
                                               const Corpus& corpus,
                                               const InspectOptions& options);

nlohmann::json ToJson(const RouterInspection& inspection);

}  // namespace strata

#endif  // TRAINING_INSPECT_ROUTER_INSPECTION_H_
