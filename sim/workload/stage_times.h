// What a rank of each pipeline stage takes for a micro-batch: kernels at their
// pace, and the communication that nothing hides.
//
//   LayerCost (layer_cost.h) --layers of a stage--> Stage
//     |  overlap of what with what: docs/simulator.md
//     v
//   Parts of a forward, an input gradient, a weight gradient, a pair

#ifndef SIM_WORKLOAD_STAGE_TIMES_H_
#define SIM_WORKLOAD_STAGE_TIMES_H_

#include <cstdint>
#include <vector>

#include "core/parallel/pipeline_schedule.h"
#include "sim/memory/footprint.h"
#include "sim/workload/layer_cost.h"
#include "sim/workload/layout.h"
#include "sim/workload/machine.h"
#include "sim/workload/model_graph.h"
#include "sim/workload/step_parts.h"

namespace strata::sim {

struct Stage {
  LayerCost cost;
  HeldParameters parameters;
  int64_t layers = 0;
  double shard_seconds = 0;  // To gather its weights, with zero3.
};

// The layers of `cost` over the stages of the layout; embedding on the first,
// output and prediction modules on the last.
std::vector<Stage> MakeStages(const ModelGraph& model, const Layout& layout,
                              PipelineKind schedule, const ModelCost& cost);

// All but the numbers must outlive it.
class StageTimes {
 public:
  StageTimes(const Layout& layout, const Machine& machine, double efficiency,
             const TrainingConstants& constants,
             const std::vector<Stage>& stages)
      : layout_(layout),
        machine_(machine),
        efficiency_(efficiency),
        constants_(constants),
        stages_(stages) {}

  Parts Forward(int stage) const;
  Parts InputGrad(int stage) const;  // Recomputation included.
  Parts WeightGrad(int stage) const;
  // A forward and a backward at once: dispatch and combine of one run while
  // the other computes, on the SMs that dispatch leaves.
  Parts Pair(int forward_stage, int backward_stage) const;
  // Adds what an item costs where there are several stages: its programs begun
  // and ended, and, if hops block, a send and a receive at once of `hop`
  // seconds, both waited for.
  void AddStageOwn(const PipelineItem& item, double hop, Parts& parts) const;

 private:
  double Paced(int family, double seconds) const;
  double Paced(const PhaseCost& cost) const;
  void AddCompute(const PhaseCost& cost, Parts& parts) const;
  double LentShare() const;
  double ExposedTensor(double comm, double products) const;
  void Overlap(double comm, double compute, Parts& parts) const;
  void AddExperts(const CommCost& comm, double compute, Parts& parts) const;
  void AddShard(int stage, double compute, double rounds, Parts& parts) const;

  const Layout& layout_;
  const Machine& machine_;
  const double efficiency_;
  const TrainingConstants constants_;
  const std::vector<Stage>& stages_;
};

}  // namespace strata::sim

#endif  // SIM_WORKLOAD_STAGE_TIMES_H_
