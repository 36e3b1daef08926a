// Trains the tiny model of the tests of meshes (training/testing/mesh_runs.h)
// as processes that mpirun started, in F64, and prints what is to be the same
// on every mesh:
//
//   mpirun -np 4 mesh_losses flat 2 2 1 1f1b 50        model, dp, ep, pp,
//                                                      schedule, steps
//   step <n> <loss> <total loss> <norm of gradients>   by the first rank
//   state <rank> <hash of weights, moments and loads>  by each rank
//
// Numbers have 17 digits, so that equal text is equal bits.

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "core/base/random.h"
#include "core/base/status_macros.h"
#include "core/model/config.h"
#include "core/parallel/mesh.h"
#include "core/tensor/dtype.h"
#include "gtest/gtest.h"
#include "training/distributed/mpi_communicator.h"
#include "training/metrics.h"
#include "training/pipeline/pipeline_plan.h"
#include "training/routing_fixture.h"
#include "training/testing/mesh_runs.h"

namespace strata {
namespace {

constexpr int kLayers = 4;
constexpr int kExperts = 8;  // Of a gate, or of each tier.

absl::StatusOr<ModelConfig> ModelOf(absl::string_view name) {
  ModelConfig model = name == "flat" ? TinyFlat() : TinyHierarchical();
  model.set_num_layers(kLayers);
  if (name == "flat") return model;
  if (name != "hierarchical") {
    return absl::InvalidArgumentError(
        absl::StrCat("the model is ", name, "; want flat or hierarchical"));
  }
  HierarchicalRouterConfig& tiers =
      *model.mutable_moe()->mutable_hierarchical();
  for (int i = 0; i < tiers.tier_experts_size(); ++i) {
    tiers.set_tier_experts(i, kExperts);
  }
  return model;
}

uint64_t HashOf(const RankRun& run) {
  uint64_t hash = 0;
  for (const auto& [name, values] : run.state) {
    hash = HashCounter(hash, HashName(name), values.size());
    hash = HashCounter(hash, HashName(absl::string_view(
                                 reinterpret_cast<const char*>(values.data()),
                                 values.size() * sizeof(double))));
  }
  return hash;
}

absl::Status Run(const std::vector<std::string>& arguments) {
  MeshShape shape;
  int steps = 0;
  if (arguments.size() != 6 || !absl::SimpleAtoi(arguments[1], &shape.dp) ||
      !absl::SimpleAtoi(arguments[2], &shape.ep) ||
      !absl::SimpleAtoi(arguments[3], &shape.pp) ||
      !absl::SimpleAtoi(arguments[5], &steps)) {
    return absl::InvalidArgumentError("want MODEL DP EP PP SCHEDULE STEPS");
  }
  ASSIGN_OR_RETURN(const ModelConfig model, ModelOf(arguments[0]));
  ASSIGN_OR_RETURN(const PipelineOptions pipeline,
                   ParsePipeline(arguments[4], /*chunks=*/0));
  shape.mirrored = IsMirrored(pipeline.schedule);
  Way way;
  way.schedule = pipeline.schedule;
  way.chunks = pipeline.chunks;
  way.train.set_accumulation(8);
  way.train.set_batch_size(2);
  way.train.set_seq_len(16);

  std::unique_ptr<MpiWorld> mpi;
  std::unique_ptr<Mesh> mesh;
  if (shape.size() > 1) {
    ASSIGN_OR_RETURN(mpi, MpiWorld::Start(absl::Seconds(60)));
    ASSIGN_OR_RETURN(mesh, Mesh::Create(mpi->world(), shape));
  }
  const RankRun run = Train(model, DType::kF64, mesh.get(), steps, way);
  const int rank = mesh == nullptr ? 0 : mesh->world().rank();
  if (rank == 0) {
    for (const StepMetrics& step : run.steps) {
      absl::PrintF("step %d %.17g %.17g %.17g\n", step.step, step.loss,
                   step.total_loss, step.grad_norm);
    }
  }
  absl::PrintF("state %d %016x\n", rank, HashOf(run));
  std::fflush(stdout);
  return absl::OkStatus();
}

}  // namespace
}  // namespace strata

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);  // What a run expects fails it.
  const absl::Status status =
      strata::Run(std::vector<std::string>(argv + 1, argv + argc));
  if (!status.ok()) {
    std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
  }
  return status.ok() && !testing::UnitTest::GetInstance()->Failed() ? 0 : 1;
}
