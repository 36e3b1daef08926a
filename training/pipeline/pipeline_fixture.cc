#include "training/pipeline/pipeline_fixture.h"

#include "core/model/config.pb.h"
#include "core/parallel/mesh.h"
#include "core/parallel/pipeline_schedule.h"
#include "training/pipeline/pipeline_plan.h"
#include "training/routing_fixture.h"
#include "training/testing/mesh_runs.h"

namespace strata {

ModelConfig Hierarchical(int layers) {
  ModelConfig model = TinyHierarchical();
  model.set_num_layers(layers);
  HierarchicalRouterConfig& tiers =
      *model.mutable_moe()->mutable_hierarchical();
  for (int i = 0; i < 2; ++i) tiers.set_tier_experts(i, 8);
  return model;
}

ModelConfig Flat(int layers) { return WithFlatGates(Hierarchical(layers)); }

Way WayOf(PipelineKind schedule, int micro_batches, int chunks) {
  Way way;
  way.schedule = schedule;
  way.chunks = chunks;
  way.train.set_accumulation(micro_batches);
  way.train.set_batch_size(1);
  way.train.set_seq_len(16);
  return way;
}

MeshShape MeshOf(int dp, int ep, int pp, PipelineKind schedule) {
  return {dp, ep, pp, IsMirrored(schedule)};
}

}  // namespace strata
