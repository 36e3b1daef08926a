#include "sim/workload/sweep.h"

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/base/status_macros.h"
#include "core/parallel/pipeline_schedule.h"
#include "sim/workload/layout.h"
#include "sim/workload/simulator.h"
#include "sim/workload/training_step.h"

namespace strata::sim {
namespace {

// More micro-batches than this are no different, only slower to simulate.
constexpr int64_t kMaxMicroBatches = 4096;

std::vector<int64_t> Divisors(int64_t n) {
  std::vector<int64_t> divisors;
  for (int64_t d = 1; d <= n; ++d) {
    if (n % d == 0) divisors.push_back(d);
  }
  return divisors;
}

class Sweeping {
 public:
  Sweeping(const Scenario& scenario, Simulator& simulator,
           const SweepOptions& options)
      : scenario_(scenario), simulator_(simulator), options_(options) {}

  absl::StatusOr<Sweep> Run() {
    ASSIGN_OR_RETURN(fixed_, ParseLayout(scenario_.layout));
    ASSIGN_OR_RETURN(model_, simulator_.Model(scenario_.model));
    ASSIGN_OR_RETURN(const Simulator::ClusterParts* parts,
                     simulator_.ClusterOf(scenario_.cluster));
    const int64_t gpus = parts->machine.num_gpus;
    const int64_t experts =
        model_->gates().empty() ? 1 : model_->gates()[0].num_experts;
    std::vector<int64_t> zeros = options_.zero;
    if (zeros.empty()) zeros.push_back(fixed_.zero);
    const int64_t max_tensor =
        std::min<int64_t>(options_.max_tensor, parts->machine.gpus_per_node);
    for (int64_t tp = 1; tp <= max_tensor; tp *= 2) {
      for (const int64_t pp : Divisors(gpus)) {
        if (pp > model_->config().num_layers() || pp > options_.max_pipeline) {
          continue;
        }
        for (const int64_t ep : Divisors(experts)) {
          if (ep > gpus / pp) continue;
          for (const int64_t mbs : {1, 2, 4}) {
            for (const Recompute recompute :
                 {Recompute::kNone, Recompute::kSelective, Recompute::kFull}) {
              Layout layout = fixed_;
              layout.tensor = tp;
              layout.sequence_parallel = tp > 1;
              layout.pipeline = pp;
              layout.expert = ep;
              layout.micro_batch = mbs;
              layout.recompute = recompute;
              for (const int64_t zero : zeros) {
                layout.zero = zero;
                RETURN_IF_ERROR(Schedules(layout));
              }
            }
          }
        }
      }
    }
    std::stable_sort(sweep_.points.begin(), sweep_.points.end(),
                     [](const SweepPoint& a, const SweepPoint& b) {
                       return a.seconds < b.seconds;
                     });
    return std::move(sweep_);
  }

 private:
  absl::Status Schedules(Layout layout) {
    layout.chunks = 1;
    RETURN_IF_ERROR(Try(layout, PipelineKind::k1F1B));
    if (layout.pipeline == 1) return absl::OkStatus();
    RETURN_IF_ERROR(Try(layout, PipelineKind::kZb1p));
    if (layout.expert > 1) {
      RETURN_IF_ERROR(Try(layout, PipelineKind::kDualPipe));
    }
    const int64_t per_stage =
        (model_->config().num_layers() + layout.pipeline - 1) / layout.pipeline;
    for (const int64_t chunks : Divisors(per_stage)) {
      if (chunks == 1) continue;
      layout.chunks = chunks;
      RETURN_IF_ERROR(Try(layout, PipelineKind::kInterleaved));
    }
    return absl::OkStatus();
  }

  absl::Status Try(const Layout& layout, PipelineKind schedule) {
    ++sweep_.tried;
    Scenario scenario = scenario_;
    scenario.layout = ToString(layout);
    scenario.schedule = std::string(Name(schedule));
    absl::StatusOr<StepInputs> inputs = simulator_.Inputs(scenario);
    if (!inputs.ok() || inputs->layout.MicroBatches() > kMaxMicroBatches) {
      ++sweep_.not_dividing;
      return absl::OkStatus();
    }
    if (options_.prepare) RETURN_IF_ERROR(options_.prepare(*inputs));
    ASSIGN_OR_RETURN(const StepResult step, SimulateStep(*inputs));
    if (!step.memory.fits()) {
      ++sweep_.out_of_memory;
      return absl::OkStatus();
    }
    SweepPoint point;
    point.layout = ToString(inputs->layout);
    point.schedule = scenario.schedule;
    point.seconds = step.seconds;
    point.tokens_per_second_per_gpu = step.tokens_per_second_per_gpu;
    point.mfu_causal = step.mfu_causal;
    point.memory_bytes = step.memory.total();
    point.dollars = step.dollars;
    sweep_.points.push_back(std::move(point));
    return absl::OkStatus();
  }

  const Scenario& scenario_;
  Simulator& simulator_;
  const SweepOptions& options_;
  const ModelGraph* model_ = nullptr;
  Layout fixed_;
  Sweep sweep_;
};

}  // namespace

absl::StatusOr<Sweep> SweepLayouts(const Scenario& scenario,
                                   Simulator& simulator,
                                   const SweepOptions& options) {
  return Sweeping(scenario, simulator, options).Run();
}

std::string ToCsv(const Sweep& sweep) {
  std::string csv =
      "layout,schedule,seconds,tokens_per_second_per_gpu,mfu,memory_bytes,"
      "dollars\n";
  for (const SweepPoint& p : sweep.points) {
    absl::StrAppendFormat(&csv, "\"%s\",%s,%.6g,%.6g,%.4f,%.0f,%.6g\n",
                          p.layout, p.schedule, p.seconds,
                          p.tokens_per_second_per_gpu, p.mfu_causal,
                          p.memory_bytes, p.dollars);
  }
  return csv;
}

}  // namespace strata::sim
