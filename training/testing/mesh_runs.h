// Runs of several ranks, as threads, and how they are held to that of one.

#ifndef TRAINING_TESTING_MESH_RUNS_H_
#define TRAINING_TESTING_MESH_RUNS_H_

#include <cstddef>
#include <map>
#include <string>
#include <vector>

#include "core/model/config.pb.h"
#include "core/parallel/mesh.h"
#include "core/parallel/pipeline_schedule.h"
#include "core/tensor/dtype.h"
#include "training/balance/balance_rule.h"
#include "training/config.pb.h"
#include "training/metrics.h"

namespace strata {

constexpr int kSteps = 50;

// Of the tiny model, kSteps steps that learn.
TrainConfig FourMicroBatches();

struct RankRun {
  std::vector<StepMetrics> steps;
  // Parameters, moments, biases and loads' history, by name.
  std::map<std::string, std::vector<double>> state;
  // Of the last step, before clipping, by parameter.
  std::map<std::string, std::vector<double>> gradients;
};

// How a run is made, beyond its mesh.
struct Way {
  TrainConfig train = FourMicroBatches();
  PipelineKind schedule = PipelineKind::k1F1B;
  bool shard_optimizer = false;
  bool overlap_sums = false;
  bool overlap_rows = false;
  bool join_pairs = true;
  int chunks = 0;
  BalanceRule balance = {};
};

// The run as rank `mesh` sees it; alone, and without a pipeline, if null.
RankRun Train(const ModelConfig& model, DType dtype, const Mesh* mesh,
              int steps, const Way& way = {});

// The run of each rank.
std::vector<RankRun> TrainOnMesh(const ModelConfig& model, DType dtype,
                                 const MeshShape& shape, int steps = kSteps,
                                 const Way& way = {});

// Elements of the first moments that the rank of that run has.
size_t NumMoments(const RankRun& run);

// What all ranks hold together; expects that ranks which hold the same hold the
// same bits.
std::map<std::string, std::vector<double>> WholeState(
    const MeshShape& shape, const std::vector<RankRun>& runs);
std::map<std::string, std::vector<double>> WholeGradients(
    const MeshShape& shape, const std::vector<RankRun>& runs);

// The largest difference of two elements, NaN if one is.
double LargestDifference(const std::vector<double>& a,
                         const std::vector<double>& b);

// Expects that each rank saw the steps of `one`: losses, norms and loads within
// 1e-9, and that they hold its state, within 1e-8.
void ExpectSameRun(const MeshShape& shape, const RankRun& one,
                   const std::vector<RankRun>& runs);

}  // namespace strata

#endif  // TRAINING_TESTING_MESH_RUNS_H_
