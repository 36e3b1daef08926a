#include "training/paced/paced_example.h"

#include <string>

#include "absl/status/statusor.h"
#include "core/base/status_macros.h"
#include "core/model/config.h"
#include "core/parallel/mesh.h"
#include "core/parallel/pipeline_schedule.h"
#include "training/config.h"
#include "training/data/corpus.h"
#include "training/paced/paced_run.h"
#include "training/pipeline/pipeline_plan.h"

namespace strata {

PacedSetup PacedExample(const MeshShape& shape, PipelineKind schedule) {
  PacedSetup setup;
  setup.shape = shape;
  setup.shape.mirrored = IsMirrored(schedule);
  setup.schedule = schedule;
  // An operation a byte: products are bound by the first, all else by the
  // second.
  setup.pace.flops_per_second = 1e9;
  setup.pace.bytes_per_second = 1e9;
  setup.model = *ModelPreset("demo");
  setup.model.set_d_model(32);
  setup.model.set_num_layers(8);
  setup.model.mutable_attention()->set_num_heads(2);
  setup.model.mutable_attention()->set_num_kv_heads(1);
  setup.model.mutable_attention()->set_head_dim(16);
  setup.model.mutable_moe()->set_expert_width(32);
  FlatRouterConfig& flat = *setup.model.mutable_moe()->mutable_flat();
  flat.set_num_experts(8);
  flat.set_k(2);
  flat.set_normalize(true);
  setup.train = *TrainPreset("demo");
  setup.train.set_seq_len(32);
  setup.train.set_batch_size(2);
  setup.train.set_accumulation(8);
  return setup;
}

absl::StatusOr<Corpus> PacedCorpus() {
  std::string text;
  for (int i = 0; i < 20000; ++i) text += static_cast<char>('a' + i * i % 23);
  return MakeCorpus({{"a", {{"a", text}}}});
}

absl::StatusOr<Pace> PaceOf(PacedSetup setup, double one_rank_seconds) {
  setup.shape = MeshShape();
  setup.schedule = PipelineKind::k1F1B;
  ASSIGN_OR_RETURN(const StepPrediction alone, PredictPaced(setup));
  const double faster = alone.step_seconds / one_rank_seconds;
  setup.pace.flops_per_second *= faster;
  setup.pace.bytes_per_second *= faster;
  return setup.pace;
}

}  // namespace strata
