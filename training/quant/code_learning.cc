#include "training/quant/code_learning.h"

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/base/thread_pool.h"
#include "core/quant/quantized_matrix.h"
#include "core/quant/straight_through.h"
#include "core/runtime/state_store.h"
#include "training/config.pb.h"
#include "training/metrics.h"
#include "training/quant/model_numbers.h"
#include "training/quant/router_tuning.h"
#include "training/step_graph.h"
#include "training/trainer.h"

namespace strata {
namespace {

// A parameter while it is learned: matrices of equal extents.
class Learner {
 public:
  explicit Learner(std::vector<QuantizedMatrix> matrices)
      : rounded_(std::move(matrices)),
        learned_(rounded_.begin(), rounded_.end()) {}

  // `numbers` and `gradient` are the parameter's, behind a step of the trainer
  // that began with those of rounded(), which become what it has learned.
  void Step(float* numbers, const float* gradient, const AdamRates& rates,
            ThreadPool& pool) {
    const int64_t rows = rounded_[0].rows, columns = rounded_[0].columns;
    const auto n = static_cast<int64_t>(rounded_.size());
    pool.ParallelFor(n * rows, [&](int64_t i) {
      const int64_t row = i % rows;
      QuantizedMatrix& rounded = rounded_[i / rows];
      LearnedMatrix& learned = learned_[i / rows];
      std::vector<float> before(columns);
      rounded.DequantizeRow(row, before.data());
      float* const w = numbers + i * columns;
      for (int64_t c = 0; c < columns; ++c) w[c] -= before[c];
      learned.MoveRow(row, gradient + i * columns, w, rates);
      learned.RoundRow(row, rounded);
      rounded.DequantizeRow(row, w);
    });
  }

  const std::vector<QuantizedMatrix>& rounded() const { return rounded_; }

 private:
  std::vector<QuantizedMatrix> rounded_;
  std::vector<LearnedMatrix> learned_;
};

double ShareMoved(const QuantizedParameters& before,
                  const QuantizedParameters& after) {
  int64_t moved = 0, all = 0;
  for (const auto& [name, matrices] : before) {
    for (size_t e = 0; e < matrices.size(); ++e) {
      const std::vector<uint8_t>& codes = after.at(name)[e].code;
      for (size_t i = 0; i < codes.size(); ++i) {
        moved += codes[i] != matrices[e].code[i];
      }
      all += static_cast<int64_t>(codes.size());
    }
  }
  return all > 0 ? static_cast<double>(moved) / static_cast<double>(all) : 0;
}

}  // namespace

TuningOptions CodeLearningOptions() {
  TuningOptions options;
  options.learning_rate = 0.03;
  options.decays_weights = false;  // Codes are no numbers to be kept small.
  return options;
}

absl::StatusOr<LearnedCodes> LearnCodes(Trainer& trainer,
                                        const StateStore& model,
                                        QuantizedParameters& matrices,
                                        int num_threads,
                                        const std::function<bool()>& stop,
                                        const StepsDone& progress) {
  const TrainConfig& train = trainer.train_config();
  StateStore& state = trainer.state();
  Put(NumbersOf(model, [](const std::string&) { return true; }), state);
  LearnedCodes result;
  ASSIGN_OR_RETURN(result.before, trainer.Validate());

  const ModelNumbers kept = NumbersOf(state, [&](const std::string& name) {
    return matrices.count(name) == 0;
  });
  ThreadPool pool(num_threads);
  std::map<std::string, Learner> learners;
  for (const auto& [name, of_name] : matrices) learners.emplace(name, of_name);
  AdamRates rates;
  rates.beta1 = train.beta1();
  rates.beta2 = train.beta2();
  rates.eps = train.adam_eps();
  while (!trainer.done()) {
    if (stop && stop()) {
      return absl::CancelledError(absl::StrCat("stopped after ", trainer.step(),
                                               " of ", train.steps(),
                                               " steps that learn codes"));
    }
    ASSIGN_OR_RETURN(const StepMetrics metrics, trainer.Step());
    rates.rate = metrics.learning_rate;
    rates.step = metrics.step;
    for (auto& [name, learner] : learners) {
      learner.Step(state.Get(name).as<float>(),
                   state.Get(GradName(name)).as<float>(), rates, pool);
    }
    Put(kept, state);
    if (progress) progress(trainer.step(), train.steps());
  }
  ASSIGN_OR_RETURN(result.after, trainer.Validate());

  QuantizedParameters learned;
  for (const auto& [name, learner] : learners) {
    learned[name] = learner.rounded();
  }
  result.share_moved = ShareMoved(matrices, learned);
  matrices = std::move(learned);
  return result;
}

}  // namespace strata
