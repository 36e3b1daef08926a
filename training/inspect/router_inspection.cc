#include "training/inspect/router_inspection.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "core/base/manifest.h"
#include "core/base/sha256.h"
#include "core/base/status_macros.h"
#include "core/checkpoint/model_files.h"
#include "core/cpu/all_kernels.h"
#include "core/cpu/cpu_backend.h"
#include "core/graph/builder.h"
#include "core/model/config.h"
#include "core/model/decoder.h"
#include "core/model/moe.h"
#include "core/parallel/load_stats.h"
#include "core/runtime/program.h"
#include "core/runtime/state_store.h"
#include "training/data/sampler.h"
#include "training/run/model_folder.h"

namespace strata {
namespace {

// For models whose folder does not say how long they were trained on.
constexpr int64_t kDefaultSeqLen = 256;

absl::Status CheckInspectable(const std::string& folder,
                              const ModelConfig& model, const Corpus& corpus) {
  if (model.num_dense_layers() >= model.num_layers()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the model in ", folder, " has no experts: all of its ",
        model.num_layers(), " layers are dense, so there is no router"));
  }
  if (model.vocab_size() < corpus.vocab_size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("vocab_size is ", model.vocab_size(), "; text is read as ",
                     corpus.tokenizer ? "ids of a tokenizer" : "bytes",
                     ", which wants at least ", corpus.vocab_size()));
  }
  if (corpus.domains.size() < 2) {
    return absl::InvalidArgumentError(
        absl::StrCat("the data has ", corpus.domains.size(),
                     " domain; want at least 2 to tell experts apart"));
  }
  return absl::OkStatus();
}

absl::StatusOr<int64_t> SeqLenOf(const std::string& folder,
                                 const ModelConfig& model) {
  const absl::StatusOr<TrainConfig> train = LoadTrainConfig(folder);
  if (!train.ok() && !absl::IsNotFound(train.status())) return train.status();
  return std::min(train.ok() ? train->seq_len() : kDefaultSeqLen,
                  model.max_seq_len());
}

// What the gates did with each window of text.
struct Routed {
  std::vector<RouterValues> routers;
  std::vector<int> domain;                    // [windows]
  std::vector<RowCounts> rows;                // [routers][windows][experts]
  std::vector<std::vector<int64_t>> reached;  // [routers][domains]
};

void AddWindow(const Program& program, int domain, Routed& routed) {
  routed.domain.push_back(domain);
  for (size_t i = 0; i < routed.routers.size(); ++i) {
    const RouterValues& router = routed.routers[i];
    const auto offset = program.Output(router.OffsetName()).span<int32_t>();
    std::vector<int64_t>& rows = routed.rows[i].emplace_back();
    for (int64_t e = 0; e < router.num_experts; ++e) {
      rows.push_back(offset[e + 1] - offset[e]);
    }
    routed.reached[i][domain] +=
        *program.Output(router.TokensName()).as<int32_t>();
  }
}

// A window a run: the null wants the rows of each.
absl::StatusOr<Routed> Route(const std::string& folder,
                             const ModelConfig& model,
                             const ValidationWindows& windows, int64_t seq_len,
                             int num_threads) {
  GraphBuilder builder;
  DecoderOptions options;
  options.mode = DecoderOptions::Mode::kEvaluate;
  options.max_tokens = seq_len;
  Routed routed;
  routed.routers = BuildDecoder(builder, model, options).routers;
  ASSIGN_OR_RETURN(Graph graph, builder.Finish());
  CpuBackend backend(num_threads, AllCpuKernels());
  StateStore state(backend);
  ASSIGN_OR_RETURN(const std::unique_ptr<Program> program,
                   Program::Compile(std::move(graph), backend, state));
  RETURN_IF_ERROR(LoadWeights(folder, model, state));

  *program->Input("num_tokens").as<int32_t>() = static_cast<int32_t>(seq_len);
  const auto position = program->Input("position").span<int32_t>();
  std::iota(position.begin(), position.end(), 0);
  const auto seq_start = program->Input("seq_start").span<int32_t>();
  seq_start[0] = 0;
  seq_start[1] = static_cast<int32_t>(seq_len);
  routed.rows.resize(routed.routers.size());
  routed.reached.assign(routed.routers.size(),
                        std::vector<int64_t>(windows.num_domains(), 0));
  for (int d = 0; d < windows.num_domains(); ++d) {
    for (int64_t w = 0; w < windows.num_windows(d); ++w) {
      windows.Fill(d, w, program->Input("ids").span<int32_t>(),
                   program->Input("target").span<int32_t>());
      RETURN_IF_ERROR(program->Run());
      AddWindow(*program, d, routed);
    }
  }
  return routed;
}

std::vector<std::string> NotesOn(const ModelConfig& model) {
  std::vector<std::string> notes;
  if (model.moe().has_flat() &&
      model.moe().flat().choice() == FlatRouterConfig::EXPERT_CHOICE) {
    notes.push_back(
        "Experts choose their tokens here, as many of each window: loads are "
        "even and the information is 0 by construction.");
  }
  return notes;
}

void AddMean(const Specialisation& gate, double weight, Specialisation& mean) {
  mean.bits += weight * gate.bits;
  mean.corrected_bits += weight * gate.corrected_bits;
  mean.domain_bits += weight * gate.domain_bits;
  mean.expert_bits += weight * gate.expert_bits;
}

InspectedTier AverageTier(int64_t tier,
                          const std::vector<const InspectedGate*>& gates,
                          const std::vector<InspectedDomain>& domains) {
  InspectedTier result;
  result.tier = tier;
  result.num_layers = static_cast<int>(gates.size());
  result.reached.assign(domains.size(), 0);
  int num_loaded = 0;
  for (const InspectedGate* gate : gates) {
    num_loaded += gate->specialisation.expert_bits > 0 ||
                  gate->specialisation.domain_bits > 0;
  }
  const double weight = 1 / std::max(1.0, static_cast<double>(num_loaded));
  std::vector<double> shuffled;
  for (const InspectedGate* gate : gates) {
    result.num_experts += static_cast<int>(gate->experts.size());
    result.num_starved += gate->num_starved();
    // A gate that no token reached adds 0 to each of these.
    AddMean(gate->specialisation, weight, result.specialisation);
    result.bound_bits += weight * gate->specialisation.bound_bits();
    result.normalised += weight * gate->specialisation.normalised();
    shuffled.resize(gate->shuffled_bits.size());
    for (size_t s = 0; s < shuffled.size(); ++s) {
      shuffled[s] += weight * gate->shuffled_bits[s];
    }
    for (size_t d = 0; d < domains.size(); ++d) {
      result.reached[d] +=
          static_cast<double>(gate->reached[d]) /
          static_cast<double>(domains[d].tokens * result.num_layers);
    }
  }
  result.null = CompareToNull(result.specialisation.bits, std::move(shuffled));
  return result;
}

nlohmann::json InformationJson(const Specialisation& specialisation,
                               double bound_bits, double normalised,
                               const NullTest& null) {
  return {{"bits", specialisation.bits},
          {"corrected_bits", specialisation.corrected_bits},
          {"normalised", normalised},
          {"domain_entropy_bits", specialisation.domain_bits},
          {"expert_entropy_bits", specialisation.expert_bits},
          {"bound_bits", bound_bits},
          {"null",
           {{"mean_bits", null.mean},
            {"upper_95_bits", null.upper},
            {"p_value", null.p_value}}}};
}

nlohmann::json GateJson(const InspectedGate& gate) {
  nlohmann::json experts = nlohmann::json::array();
  for (size_t e = 0; e < gate.experts.size(); ++e) {
    const int expert = static_cast<int>(e);
    int64_t rows = 0;
    for (const std::vector<int64_t>& domain : gate.rows) rows += domain[e];
    experts.push_back({{"expert", expert},
                       {"rows", rows},
                       {"load", gate.experts[e].load},
                       {"load_over_mean", gate.relative_load(expert)},
                       {"starved", gate.starved(expert)},
                       {"domain_share", gate.experts[e].domain_share},
                       {"bits", gate.experts[e].bits}});
  }
  return {
      {"layer", gate.layer},
      {"tier", gate.tier},
      {"information",
       InformationJson(gate.specialisation, gate.specialisation.bound_bits(),
                       gate.specialisation.normalised(), gate.null)},
      {"tokens", gate.reached},
      {"rows", gate.rows},
      {"experts", experts}};
}

}  // namespace

double InspectedGate::relative_load(int expert) const {
  return experts[expert].load * static_cast<double>(experts.size());
}

bool InspectedGate::starved(int expert) const {
  return relative_load(expert) < kStarvedShareOfMean;
}

int InspectedGate::num_starved() const {
  int num_starved = 0;
  for (size_t e = 0; e < experts.size(); ++e) {
    num_starved += starved(static_cast<int>(e));
  }
  return num_starved;
}

double InspectedGate::relative_share(int expert, int domain) const {
  return experts[expert].domain_share[domain] * num_domains;
}

InspectedGate InspectGate(int64_t layer, int64_t tier,
                          const WindowRows& windows,
                          std::vector<int64_t> reached,
                          const InspectOptions& options) {
  const int num_domains = static_cast<int>(reached.size());
  InspectedGate gate;
  gate.layer = layer;
  gate.tier = tier;
  gate.rows = SumByDomain(windows, num_domains);
  gate.reached = std::move(reached);
  for (const std::vector<int64_t>& domain : gate.rows) {
    gate.num_domains += std::any_of(domain.begin(), domain.end(),
                                    [](int64_t rows) { return rows > 0; });
  }
  gate.experts = ProfileExperts(gate.rows);
  gate.specialisation = MeasureSpecialisation(gate.rows);
  gate.shuffled_bits =
      ShuffledBits(windows, num_domains, options.num_shuffles, options.seed);
  gate.null = CompareToNull(gate.specialisation.bits, gate.shuffled_bits);
  return gate;
}

int ExpertPlace::top_domain() const {
  const std::vector<double>& share = profile().domain_share;
  return static_cast<int>(std::max_element(share.begin(), share.end()) -
                          share.begin());
}

std::vector<ExpertPlace> MostSpecialised(
    const std::vector<InspectedGate>& gates, int64_t tier, size_t count) {
  std::vector<ExpertPlace> places;
  for (const InspectedGate& gate : gates) {
    for (int e = 0; e < static_cast<int>(gate.experts.size()); ++e) {
      if (gate.tier == tier && !gate.starved(e)) places.push_back({&gate, e});
    }
  }
  std::stable_sort(places.begin(), places.end(),
                   [](const ExpertPlace& a, const ExpertPlace& b) {
                     return a.profile().bits > b.profile().bits;
                   });
  places.resize(std::min(places.size(), count));
  return places;
}

std::vector<ExpertPlace> Starved(const std::vector<InspectedGate>& gates,
                                 int64_t tier) {
  std::vector<ExpertPlace> places;
  for (const InspectedGate& gate : gates) {
    for (int e = 0; e < static_cast<int>(gate.experts.size()); ++e) {
      if (gate.tier == tier && gate.starved(e)) places.push_back({&gate, e});
    }
  }
  return places;
}

std::vector<InspectedTier> AverageTiers(
    const std::vector<InspectedGate>& gates,
    const std::vector<InspectedDomain>& domains) {
  std::vector<std::vector<const InspectedGate*>> by_tier;
  for (const InspectedGate& gate : gates) {
    by_tier.resize(std::max<size_t>(by_tier.size(), gate.tier + 1));
    by_tier[gate.tier].push_back(&gate);
  }
  std::vector<InspectedTier> tiers;
  for (size_t tier = 0; tier < by_tier.size(); ++tier) {
    tiers.push_back(
        AverageTier(static_cast<int64_t>(tier), by_tier[tier], domains));
  }
  return tiers;
}

absl::StatusOr<RouterInspection> InspectRouter(const std::string& folder,
                                               const Corpus& corpus,
                                               const InspectOptions& options) {
  ASSIGN_OR_RETURN(const ModelConfig model, LoadModelConfig(folder));
  RETURN_IF_ERROR(CheckInspectable(folder, model, corpus));
  RouterInspection inspection;
  inspection.model = folder;
  inspection.name = model.name();
  inspection.num_shuffles = options.num_shuffles;
  inspection.notes = NotesOn(model);
  ASSIGN_OR_RETURN(inspection.seq_len, SeqLenOf(folder, model));
  ASSIGN_OR_RETURN(const ValidationWindows windows,
                   ValidationWindows::Create(&corpus, inspection.seq_len,
                                             options.tokens_per_domain));
  for (int d = 0; d < windows.num_domains(); ++d) {
    inspection.domains.push_back({corpus.domains[d].name,
                                  windows.num_windows(d),
                                  windows.num_windows(d) * inspection.seq_len});
  }

  ASSIGN_OR_RETURN(
      Routed routed,
      Route(folder, model, windows, inspection.seq_len, options.num_threads));
  for (size_t i = 0; i < routed.routers.size(); ++i) {
    const RouterValues& router = routed.routers[i];
    inspection.gates.push_back(InspectGate(
        router.layer, router.tier, {routed.domain, std::move(routed.rows[i])},
        std::move(routed.reached[i]), options));
  }
  inspection.tiers = AverageTiers(inspection.gates, inspection.domains);

  Manifest manifest = NewManifest();
  manifest.config_hash = Sha256Hex(ToJson(model));
  manifest.data_hash = corpus.sha256;
  ASSIGN_OR_RETURN(manifest.weights_hash, HashWeights(folder));
  manifest.seeds["shuffles"] = options.seed;
  inspection.manifest = ToJson(manifest);
  inspection.manifest["data_sources"] = corpus.sources;
  return inspection;
}

nlohmann::json ToJson(const RouterInspection& inspection) {
  nlohmann::json domains = nlohmann::json::array();
  for (const InspectedDomain& domain : inspection.domains) {
    domains.push_back({{"name", domain.name},
                       {"windows", domain.windows},
                       {"tokens", domain.tokens}});
  }
  nlohmann::json tiers = nlohmann::json::array();
  for (const InspectedTier& tier : inspection.tiers) {
    tiers.push_back(
        {{"tier", tier.tier},
         {"layers", tier.num_layers},
         {"experts", tier.num_experts},
         {"starved", tier.num_starved},
         {"tokens_share", tier.reached},
         {"information", InformationJson(tier.specialisation, tier.bound_bits,
                                         tier.normalised, tier.null)}});
  }
  nlohmann::json gates = nlohmann::json::array();
  for (const InspectedGate& gate : inspection.gates) {
    gates.push_back(GateJson(gate));
  }
  return {{"model", inspection.model},
          {"name", inspection.name},
          {"sequence_tokens", inspection.seq_len},
          {"shuffles", inspection.num_shuffles},
          {"domains", domains},
          {"tiers", tiers},
          {"gates", gates},
          {"notes", inspection.notes},
          {"manifest", inspection.manifest}};
}

}  // namespace strata
