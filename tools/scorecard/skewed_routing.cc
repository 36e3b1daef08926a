#include "tools/scorecard/skewed_routing.h"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/model/config.h"
#include "core/model/config.pb.h"
#include "training/config.h"
#include "training/config.pb.h"
#include "training/data/corpus.h"
#include "training/routing_recording.h"
#include "training/trainer.h"

namespace strata {
namespace {

constexpr int kCopiesOfTheMain = 5;

}  // namespace

ModelConfig SkewedModel() {
  ModelConfig model = *ModelPreset("demo");
  model.set_name("skewed");
  model.set_d_model(64);
  model.mutable_attention()->set_num_heads(2);
  model.mutable_attention()->set_num_kv_heads(2);
  model.mutable_moe()->set_expert_width(32);
  FlatRouterConfig& flat = *model.mutable_moe()->mutable_flat();
  flat.set_num_experts(kSkewedExperts);
  flat.set_k(4);
  flat.set_normalize(true);
  return model;
}

Corpus SkewedCorpus(const Corpus& corpus, uint64_t seed) {
  Corpus skewed = corpus;
  const Domain main = corpus.domains[seed % corpus.domains.size()];
  for (int copy = 2; copy <= kCopiesOfTheMain; ++copy) {
    skewed.domains.push_back(main);
    skewed.domains.back().name = absl::StrCat(main.name, " ", copy);
  }
  return skewed;
}

absl::Status RecordSkewedRouting(const Corpus& corpus,
                                 const SkewedRoutingOptions& options,
                                 const std::function<void(int64_t)>& on_step,
                                 const std::function<bool()>& stop) {
  const Corpus skewed = SkewedCorpus(corpus, options.seed);
  ASSIGN_OR_RETURN(TrainConfig train, TrainPreset("demo"));
  train.set_steps(options.steps);
  train.set_seed(options.seed);
  ASSIGN_OR_RETURN(const std::unique_ptr<Trainer> trainer,
                   Trainer::Create(SkewedModel(), train, &skewed,
                                   /*num_threads=*/1));
  RecordOptions record;
  record.path = options.path;
  record.overwrite = true;
  ASSIGN_OR_RETURN(
      const std::unique_ptr<RoutingRecording> recording,
      trainer->StartRecording(record, RoutingTraceHeader::TRAIN, ""));
  while (!trainer->done()) {
    if (stop()) return absl::CancelledError("stopped");
    RETURN_IF_ERROR(trainer->Step(recording.get()).status());
    on_step(trainer->step());
  }
  return recording->Close();
}

}  // namespace strata
