#include "training/paced/predict_several_stages.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/graph/graph.h"
#include "core/parallel/pipeline_schedule.h"
#include "core/parallel/pipeline_timeline.h"
#include "core/parallel/split_backward.h"
#include "core/passes/partition/cut_graph.h"
#include "core/tensor/dtype.h"
#include "training/paced/paced_setup.h"
#include "training/pipeline/pipeline_plan.h"
#include "training/pipeline/stage_pair.h"
#include "training/step_graph.h"

namespace strata {
namespace {

constexpr double kPicosecondsPerSecond = 1e12;

struct StageTimes {
  StepGraph step;
  double forward = 0;
  double input_grad = 0;
  double weight_grad = 0;
};

// Pairs that are not one program are run as their halves.
std::vector<PipelineItem> InHalves(const std::vector<PipelineItem>& items) {
  using Kind = PipelineItem::Kind;
  std::vector<PipelineItem> run;
  for (const PipelineItem& item : items) {
    if (item.kind != Kind::kForwardBackward) {
      run.push_back(item);
      continue;
    }
    run.push_back({Kind::kForward, item.micro_batch, item.chunk});
    run.push_back(
        {Kind::kBackward, item.backward_micro_batch, item.backward_chunk});
  }
  return run;
}

class Prediction {
 public:
  explicit Prediction(const PacedSetup& setup) : setup_(setup) {
    place_.shape = setup.shape;
  }

  absl::StatusOr<double> Run() {
    const bool joins =
        setup_.overlap_rows && setup_.join_pairs && setup_.shape.ep > 1;
    ASSIGN_OR_RETURN(schedule_,
                     PlanPipeline({setup_.schedule}, setup_.shape,
                                  setup_.train.accumulation() /
                                      (setup_.shape.dp * setup_.shape.ep),
                                  setup_.model.num_layers()));
    for (int stage = 0; stage < schedule_.num_stages; ++stage) {
      ASSIGN_OR_RETURN(StageTimes times, TimesOf(stage));
      stages_.push_back(std::move(times));
    }
    if (!joins) {
      for (auto& items : schedule_.items) items = InHalves(items);
    }
    SplitBackward(schedule_);
    for (int device = 0; device < schedule_.num_devices; ++device) {
      RETURN_IF_ERROR(AddPairs(device));
    }
    PipelineCosts costs;
    costs.duration = [this](int device, const PipelineItem& item) {
      return std::llround(kPicosecondsPerSecond * SecondsOf(device, item));
    };
    ASSIGN_OR_RETURN(const PipelineTimeline timeline,
                     RunPipeline(schedule_, costs));
    // The update waits for all ranks, to know the norm.
    double update = 0;
    for (int device = 0; device < schedule_.num_devices; ++device) {
      ASSIGN_OR_RETURN(const double here, UpdateOf(device));
      update = std::max(update, here);
    }
    return static_cast<double>(timeline.total) / kPicosecondsPerSecond + update;
  }

 private:
  absl::StatusOr<StageTimes> TimesOf(int stage) const {
    StageTimes times;
    ASSIGN_OR_RETURN(
        times.step,
        PacedGradients(setup_, place_.OfStage(stage, schedule_.num_stages)));
    ASSIGN_OR_RETURN(const std::vector<GraphPiece> pieces,
                     SplitPhases(times.step.graph));
    const std::set<std::string> arrived = ArrivedRows(times.step.graph);
    times.forward = Walk(pieces[0].graph, setup_).all;
    times.input_grad = Walk(pieces[1].graph, setup_, arrived).all;
    times.weight_grad = Walk(pieces[2].graph, setup_, arrived).all;
    return times;
  }

  absl::Status AddPairs(int device) {
    for (const PipelineItem& item : schedule_.items[device]) {
      if (item.kind != PipelineItem::Kind::kForwardBackward) continue;
      const std::pair<int, int> stages = StagesOfPair(device, item);
      if (pairs_.count(stages) > 0) continue;
      const Graph& backward = stages_[stages.second].step.graph;
      ASSIGN_OR_RETURN(const Graph joined,
                       PairGraph(stages_[stages.first].step.graph, backward));
      std::set<std::string> arrived;
      for (const std::string& name : ArrivedRows(backward)) {
        arrived.insert(absl::StrCat(kBackwardPrefix, name));
      }
      pairs_[stages] = Walk(joined, setup_, arrived).all;
    }
    return absl::OkStatus();
  }

  std::pair<int, int> StagesOfPair(int device, const PipelineItem& item) const {
    return {schedule_.StageOf(device, item.chunk),
            schedule_.StageOf(device, item.backward_chunk)};
  }

  double SecondsOf(int device, const PipelineItem& item) const {
    if (item.kind == PipelineItem::Kind::kForwardBackward) {
      return pairs_.at(StagesOfPair(device, item));
    }
    const StageTimes& stage = stages_[schedule_.StageOf(device, item.chunk)];
    return (item.has_forward() ? stage.forward : 0) +
           (item.has_input_grad() ? stage.input_grad : 0) +
           (item.has_weight_grad() ? stage.weight_grad : 0);
  }

  absl::StatusOr<double> UpdateOf(int device) const {
    RankSums sums;
    sums.over_ranks = true;
    sums.shard_optimizer = sums.to_owners = setup_.shard_optimizer;
    sums.place = place_;
    sums.place.pp_rank = device;
    std::vector<int> stages = StagesOf(schedule_, device);
    if (EndsAreApart(setup_.schedule)) sums.tied = stages_[stages[0]].step.tied;
    std::sort(stages.begin(), stages.end());
    std::vector<const Graph*> graphs;
    for (const int stage : stages) {
      const StepGraph& step = stages_[stage].step;
      graphs.push_back(&step.graph);
      sums.shards.insert(sums.shards.end(), step.shards.begin(),
                         step.shards.end());
    }
    ASSIGN_OR_RETURN(const Graph update,
                     BuildUpdateGraph(graphs, setup_.model, setup_.train, sums,
                                      DType::kF32));
    return Walk(update, setup_).all;
  }

  const PacedSetup& setup_;
  MeshPlace place_;
  PipelineSchedule schedule_;
  std::vector<StageTimes> stages_;
  std::map<std::pair<int, int>, double> pairs_;  // By stages, of the joined.
};

}  // namespace

absl::StatusOr<double> PredictSeveralStages(const PacedSetup& setup) {
  return Prediction(setup).Run();
}

}  // namespace strata
