// Small models and runs of pipelines, for tests.

#ifndef TRAINING_PIPELINE_PIPELINE_FIXTURE_H_
#define TRAINING_PIPELINE_PIPELINE_FIXTURE_H_

#include "core/model/config.pb.h"
#include "core/parallel/mesh.h"
#include "core/parallel/pipeline_schedule.h"
#include "training/testing/mesh_runs.h"

namespace strata {

// Layers of two tiers of 8 experts, or of one flat gate; the embedding is tied.
ModelConfig Hierarchical(int layers);
ModelConfig Flat(int layers);

// Micro-batches of 16 tokens.
Way WayOf(PipelineKind schedule, int micro_batches, int chunks = 0);

MeshShape MeshOf(int dp, int ep, int pp, PipelineKind schedule);

}  // namespace strata

#endif  // TRAINING_PIPELINE_PIPELINE_FIXTURE_H_
