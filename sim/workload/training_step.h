// One training step: schedule, costs of layers, gradients, optimizer.
//
//   LayerCost (layer_cost.h) --stages--> duration of each pipeline item
//     |  pipeline_timeline.h
//     v
//   pipeline --> gradients added up, weights gathered --> optimizer
//
// A rank of each stage stands for all: TP and EP groups go in step, and data
// parallel replicas do the same work. A slow rank slows its stage. What is
// overlapped by what: docs/simulator.md.

#ifndef SIM_WORKLOAD_TRAINING_STEP_H_
#define SIM_WORKLOAD_TRAINING_STEP_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/parallel/pipeline_schedule.h"
#include "core/parallel/pipeline_timeline.h"
#include "sim/memory/footprint.h"
#include "sim/workload/comm_times.h"
#include "sim/workload/expert_loads.h"
#include "sim/workload/kernel_times.h"
#include "sim/workload/layout.h"
#include "sim/workload/machine.h"
#include "sim/workload/model_graph.h"

namespace strata::sim {

struct StepInputs {
  const ModelGraph* model = nullptr;
  Layout layout;  // Of LayoutFor.
  PipelineKind schedule = PipelineKind::k1F1B;
  Machine machine;
  Software software;
  const KernelTimes* kernels = nullptr;
  const CommTimes* network = nullptr;
  ExpertLoads loads;
};

// Parts of a step's time on the device that is busy the longest. They add up to
// the step.
struct StepPart {
  std::string name;
  double seconds = 0;
};

struct DeviceSummary {
  double busy_seconds = 0;
  double idle_seconds = 0;
  double peak_activations = 0;  // Chunks' worth of micro-batches.
  Footprint memory;
};

struct StepResult {
  double seconds = 0;
  double tokens_per_second = 0;
  double tokens_per_second_per_gpu = 0;

  // Of the products and attention that the model defines, gradients included,
  // nothing for recomputation; attention by causal pairs, or (as Megatron-LM
  // and others print) by all pairs.
  double flops_causal = 0;  // Of the step.
  double flops_full = 0;
  double tflops_per_gpu_causal = 0;
  double tflops_per_gpu_full = 0;
  double mfu_causal = 0;  // Against the BF16 peak.
  double mfu_full = 0;

  std::vector<StepPart> parts;
  double bubble_share = 0;       // Of the pipeline's time, all devices.
  double imbalance_seconds = 0;  // Less if experts' loads were even,
  double straggler_seconds = 0;  // and if no rank was slow.
  double expert_max_over_mean = 1;
  // Bytes that a rank sends in a step, by kind.
  double bytes_tensor = 0;
  double bytes_expert = 0;
  double bytes_pipeline = 0;
  double bytes_data = 0;

  std::vector<DeviceSummary> devices;  // A rank of each stage.
  Footprint memory;                    // Of the fullest.

  // Half of what is predicted so is within it: the kernels' errors where they
  // were measured, and those of whole steps (TrainingConstants::step_error).
  double error_share = 0;
  double outside_share = 0;  // Of the kernels' time, shapes not measured.
  std::vector<std::string> warnings;
  std::string critical_path;

  double dollars = 0;
  double kwh = 0;

  PipelineSchedule schedule;
  PipelineTimeline timeline;  // Picoseconds.
  int busiest_device = 0;
};

// Returns INVALID_ARGUMENT if the schedule does not exist for the layout, or
// the error of a kernel or collective.
absl::StatusOr<StepResult> SimulateStep(const StepInputs& inputs);

}  // namespace strata::sim

#endif  // SIM_WORKLOAD_TRAINING_STEP_H_
