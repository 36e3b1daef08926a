// A model on a cluster by names: what the command line and the validation ask.
//
//   Simulator simulator;
//   Scenario scenario = {"deepseek-v3", "h800x2048",
//                        "pp16,ep64,gbs15360,fp8,deepep", "dualpipe"};
//   ASSIGN_OR_RETURN(StepResult step, simulator.Run(scenario));
//
// Graphs, clusters and calibrations are kept, so a sweep pays for each once.

#ifndef SIM_WORKLOAD_SIMULATOR_H_
#define SIM_WORKLOAD_SIMULATOR_H_

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/model/config.pb.h"
#include "sim/cluster/cluster.h"
#include "sim/workload/comm_times.h"
#include "sim/workload/expert_loads.h"
#include "sim/workload/kernel_times.h"
#include "sim/workload/layout.h"
#include "sim/workload/machine.h"
#include "sim/workload/model_graph.h"
#include "sim/workload/training_step.h"

namespace strata::sim {

struct Scenario {
  std::string model;    // See ParseModel.
  std::string cluster;  // See LoadCluster.
  std::string layout;   // See ParseLayout.
  std::string schedule = "1f1b";
  Software software;
  std::vector<std::pair<int, double>> slow;  // Rank, factor.
  ExpertLoads loads;
};

// A preset's name, a config.json's path (with a '/' or ".json"), or dimensions:
//
//   layers=96 hidden=12288 heads=96 ffn=49152 mlp=gelu vocab=51200
//   layers=56 hidden=6144 heads=48 kv_heads=8 vocab=32768 experts=8 top_k=2
//     expert_ffn=16384
//
//   kv_heads   heads             head_dim  hidden / heads
//   ffn        of dense layers   mlp       swiglu, or gelu: two matrices; taken
//                                          as a SwiGLU of two thirds the width,
//                                          which has the same parameters and
//                                          FLOPs
//   qk_norm    1: queries and keys are normalised
//   experts top_k expert_ffn shared_ffn dense_layers   a mixture of experts
//   groups top_groups                                  node-limited choice
//
// Returns NOT_FOUND or INVALID_ARGUMENT with the word that is wrong.
absl::StatusOr<ModelConfig> ParseModel(absl::string_view text);

class Simulator {
 public:
  Simulator();
  ~Simulator();

  // Returns the first error of what the names stand for, or of the step.
  absl::StatusOr<StepResult> Run(const Scenario& scenario);

  // What Run would simulate, to be changed before SimulateStep; the pointers
  // are the simulator's.
  absl::StatusOr<StepInputs> Inputs(const Scenario& scenario);

  absl::StatusOr<const ModelGraph*> Model(const std::string& text);

  struct ClusterParts {
    std::unique_ptr<Cluster> cluster;
    Machine machine;
    std::unique_ptr<KernelTimes> kernels;
    std::unique_ptr<CommTimes> network;
    std::vector<std::string> notes;
  };
  absl::StatusOr<const ClusterParts*> ClusterOf(const std::string& name);

 private:
  std::map<std::string, std::unique_ptr<ModelGraph>> models_;
  std::map<std::string, std::unique_ptr<ClusterParts>> clusters_;
};

// GPUs of a cluster as a step sees them.
Machine MachineOf(const Cluster& cluster);

}  // namespace strata::sim

#endif  // SIM_WORKLOAD_SIMULATOR_H_
