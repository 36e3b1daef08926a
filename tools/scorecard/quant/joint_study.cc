#include "tools/scorecard/quant/joint_study.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "core/base/status_macros.h"
#include "core/base/thread_pool.h"
#include "core/checkpoint/model_files.h"
#include "core/model/config.pb.h"
#include "core/quant/calibrate.h"
#include "core/quant/format.h"
#include "core/quant/input_moments.h"
#include "core/quant/packed_parameters.h"
#include "core/quant/quantized_matrix.h"
#include "core/runtime/state_store.h"
#include "core/tensor/tensor.h"
#include "nlohmann/json.hpp"
#include "training/data/calibration_batches.h"
#include "training/data/corpus.h"
#include "training/metrics.h"
#include "training/quant/loss_weights.h"
#include "training/quant/model_numbers.h"
#include "training/quant/router_tuning.h"
#include "training/run/model_folder.h"
#include "training/trainer.h"

namespace strata {
namespace {

constexpr char kExperts[] = ".experts.";
constexpr QuantFormat kDense = {8, 32, true};  // What is no expert's.

// Of two bits a zero is worth its price: {-2, ..., 1} and {-1, ..., 2} serve
// groups that lean to either side.
QuantFormat FormatOfExperts(int bits) { return {bits, 32, bits > 2}; }

// The tier (or block) that a matrix of experts belongs to; empty: to none.
std::string TierOf(const std::string& name) {
  const size_t at = name.find(kExperts);
  return at == std::string::npos ? "" : name.substr(0, at);
}

QuantFormat FormatFor(const QuantFormat& wanted, int64_t columns) {
  QuantFormat format = wanted;
  if (columns % format.group != 0) format.group = 0;
  return format;
}

using Expert = std::pair<std::string, int64_t>;  // Tier, index.

// What twice the bits would spare of an expert's error.
struct Gain {
  Expert expert;
  double of_weights = 0;  // Shares of the energies of the tier's matrices.
  // What the loss would change by: the energy of each output's error, on the
  // inputs that are routed to the expert, by what that costs
  // (training/quant/loss_weights.h). The squares of the weights' gradients by
  // themselves would not see that calibration turns errors to where inputs are
  // small.
  double of_loss = 0;
};

// One model that is tuned, quantised and measured.
class Subject {
 public:
  static absl::StatusOr<std::unique_ptr<Subject>> Create(
      const Corpus& corpus, const JointStudyOptions& options,
      const std::function<bool()>& stop) {
    auto subject = std::unique_ptr<Subject>(new Subject(options, stop));
    ASSIGN_OR_RETURN(const std::string folder, FindModel(options.model));
    ASSIGN_OR_RETURN(subject->config_, LoadModelConfig(folder));
    TuningOptions tuning;
    tuning.steps = options.tuning_steps;
    tuning.learning_rate = options.learning_rate;
    tuning.seed = options.seed;
    tuning.validation_tokens = options.validation_tokens;
    tuning.num_threads = options.num_threads;
    ASSIGN_OR_RETURN(subject->trainer_, TuningTrainer(folder, corpus, tuning));
    ASSIGN_OR_RETURN(subject->names_, ParametersToQuantize(subject->config_));
    ASSIGN_OR_RETURN(
        subject->batches_,
        CalibrationBatches(corpus, subject->config_, options.calibration_tokens,
                           options.seed));
    return subject;
  }

  // The router's numbers, and in their place those of another subject.
  ModelNumbers Gates() { return NumbersOf(trainer_->state(), IsOfGate); }
  void Put(const ModelNumbers& numbers) {
    strata::Put(numbers, trainer_->state());
  }

  // The router alone.
  absl::Status Tune() { return TuneGates(*trainer_, stop_); }

  // What each expert has to gain, as the model routes now. Takes the trainer's
  // steps; the weights stay.
  absl::StatusOr<std::vector<Gain>> Gains() {
    std::set<std::string> of_experts;
    for (const std::string& name : names_) {
      if (!TierOf(name).empty()) of_experts.insert(name);
    }
    if (of_experts.empty()) {
      return absl::InvalidArgumentError(absl::StrCat(
          options_.model, " has no experts; want a mixture of them"));
    }
    ASSIGN_OR_RETURN(
        const ModelNumbers output_weights,
        LossWeights(*trainer_, of_experts, batches_,
                    std::min(kLossWeightSteps, options_.tuning_steps), stop_));
    RETURN_IF_ERROR(Collect());
    std::map<Expert, Gain> gains;
    for (const auto& [name, of_outputs] : output_weights) {
      double energy = 0;
      for (const float w : trainer_->state().Get(name).span<float>()) {
        energy += double{w} * w;
      }
      for (int64_t e = 0; e < NumExperts(name); ++e) {
        Gain& gain = gains[{TierOf(name), e}];
        gain.expert = {TierOf(name), e};
        int64_t rows, columns;
        const float* const w = Weights(name, e, rows, columns);
        const auto counts =
            absl::MakeConstSpan(of_outputs).subspan(e * rows, rows);
        for (const auto& [format, sign] :
             {std::make_pair(few_, 1), std::make_pair(many_, -1)}) {
          ASSIGN_OR_RETURN(const QuantizedMatrix matrix,
                           Rounded(name, e, format));
          const QuantError error =
              ErrorOf(w, matrix, moments_.at(name)[e].sum, pool_, counts);
          gain.of_loss += sign * error.output_error;
          gain.of_weights += sign * error.weight_error / energy;
        }
      }
    }
    std::vector<Gain> list;
    for (const auto& [expert, gain] : gains) list.push_back(gain);
    return list;
  }

  // Quantises: experts of `wide` in more bits than the others. Calibrated as
  // the model routes now.
  absl::Status Quantise(const std::set<Expert>& wide) {
    RETURN_IF_ERROR(Collect());
    ModelNumbers numbers;
    for (const std::string& name : names_) {
      const std::string tier = TierOf(name);
      for (int64_t e = 0; e < NumExperts(name); ++e) {
        const QuantFormat& format = tier.empty()                ? kDense
                                    : wide.count({tier, e}) > 0 ? many_
                                                                : few_;
        ASSIGN_OR_RETURN(const QuantizedMatrix matrix,
                         Rounded(name, e, format));
        const std::vector<float> w = matrix.Dequantize();
        numbers[name].insert(numbers[name].end(), w.begin(), w.end());
        if (tier.empty()) continue;
        const auto size = static_cast<double>(w.size());
        bits_ += size * BitsPerWeight(matrix.format, matrix.columns);
        weights_ += size;
      }
    }
    Put(numbers);
    return absl::OkStatus();
  }

  absl::StatusOr<JointOutcome> Measure(const std::string& variant) {
    ASSIGN_OR_RETURN(const ValidationMetrics metrics, trainer_->Validate());
    return JointOutcome{variant, metrics.bits_per_byte, metrics.accuracy,
                        weights_ > 0 ? bits_ / weights_ : 32};
  }

 private:
  Subject(const JointStudyOptions& options, const std::function<bool()>& stop)
      : options_(options),
        stop_(stop),
        few_(FormatOfExperts(options.bits)),
        many_(FormatOfExperts(2 * options.bits)) {}

  absl::Status Collect() {
    ThreadPool pool(options_.num_threads);
    ASSIGN_OR_RETURN(
        moments_, CollectMoments(config_, names_, batches_, trainer_->backend(),
                                 trainer_->state(), pool));
    return absl::OkStatus();
  }

  int64_t NumExperts(const std::string& name) const {
    return static_cast<int64_t>(moments_.at(name).size());
  }

  // Where expert `e` of a matrix is, and its rows.
  const float* Weights(const std::string& name, int64_t e, int64_t& rows,
                       int64_t& columns) {
    const TensorView& w = trainer_->state().Get(name);
    columns = w.shape.back();
    const int64_t size = w.num_elements() / NumExperts(name);
    rows = size / columns;
    return w.as<float>() + e * size;
  }

  absl::StatusOr<QuantizedMatrix> Rounded(const std::string& name, int64_t e,
                                          const QuantFormat& format) {
    const std::vector<InputMoments>& moments = moments_.at(name);
    std::vector<float> h = moments[0].sum;
    if (moments.size() > 1) {
      ASSIGN_OR_RETURN(h, BlendMoments(name, moments[e], SumOf(moments)));
    }
    int64_t rows, columns;
    const float* const w = Weights(name, e, rows, columns);
    return Calibrate(name, w, rows, columns, FormatFor(format, columns),
                     CalibrationMethod::kLearned, h, pool_);
  }

  const JointStudyOptions& options_;
  const std::function<bool()>& stop_;
  const QuantFormat few_, many_;
  ThreadPool pool_{options_.num_threads};
  ModelConfig config_;
  std::unique_ptr<Trainer> trainer_;
  std::set<std::string> names_;
  std::vector<TokenBatch> batches_;
  MomentsByName moments_;
  double bits_ = 0, weights_ = 0;
};

// The `count` experts that have most to gain; of equals the first.
std::set<Expert> Best(std::vector<Gain> gains, int64_t count,
                      double Gain::*by) {
  std::stable_sort(gains.begin(), gains.end(),
                   [&](const Gain& a, const Gain& b) { return a.*by > b.*by; });
  std::set<Expert> best;
  for (int64_t i = 0; i < count; ++i) best.insert(gains[i].expert);
  return best;
}

}  // namespace

absl::StatusOr<JointRun> RunJointStudy(const Corpus& corpus,
                                       const JointStudyOptions& options,
                                       const std::function<bool()>& stop) {
  JointRun run;
  run.seed = options.seed;
  run.model = options.model;
  run.bits = options.bits;
  const auto measure = [&](Subject& subject,
                           const char* variant) -> absl::Status {
    ASSIGN_OR_RETURN(run.outcomes.emplace_back(), subject.Measure(variant));
    return absl::OkStatus();
  };
  const auto create = [&] { return Subject::Create(corpus, options, stop); };

  // Router first, then bits.
  ASSIGN_OR_RETURN(const auto first, create());
  RETURN_IF_ERROR(measure(*first, kUntouched));
  ASSIGN_OR_RETURN(const auto probe, create());
  ASSIGN_OR_RETURN(const std::vector<Gain> gains, probe->Gains());
  run.num_experts = static_cast<int64_t>(gains.size());
  run.num_wide =
      std::lround(options.share_of_wide * static_cast<double>(run.num_experts));
  const std::set<Expert> by_weights =
      Best(gains, run.num_wide, &Gain::of_weights);
  const std::set<Expert> by_routing = Best(gains, run.num_wide, &Gain::of_loss);
  for (const Expert& expert : by_routing) {
    run.num_shared += static_cast<int64_t>(by_weights.count(expert));
  }
  RETURN_IF_ERROR(first->Tune());
  RETURN_IF_ERROR(measure(*first, kTunedF32));

  // The choices alone.
  ASSIGN_OR_RETURN(const auto plain, create());
  RETURN_IF_ERROR(plain->Quantise(by_weights));
  RETURN_IF_ERROR(measure(*plain, kByWeights));
  ASSIGN_OR_RETURN(const auto joint, create());
  RETURN_IF_ERROR(joint->Quantise(by_routing));
  RETURN_IF_ERROR(measure(*joint, kByRouting));

  // What the choice is worth behind a router that was tuned before.
  ASSIGN_OR_RETURN(const auto behind, create());
  behind->Put(first->Gates());
  ASSIGN_OR_RETURN(const std::vector<Gain> tuned_gains, behind->Gains());
  RETURN_IF_ERROR(
      behind->Quantise(Best(tuned_gains, run.num_wide, &Gain::of_loss)));
  RETURN_IF_ERROR(measure(*behind, kTunedByRouting));

  // Tuning does not touch experts, so the choice by weights stands; calibration
  // is on the tuned routing.
  RETURN_IF_ERROR(first->Quantise(by_weights));
  RETURN_IF_ERROR(measure(*first, kOneByOne));
  RETURN_IF_ERROR(joint->Tune());
  RETURN_IF_ERROR(measure(*joint, kJoint));
  return run;
}

nlohmann::json ToJson(const JointRun& run) {
  nlohmann::json outcomes = nlohmann::json::array();
  for (const JointOutcome& o : run.outcomes) {
    outcomes.push_back({{"variant", o.variant},
                        {"bits_per_byte", o.bits_per_byte},
                        {"accuracy", o.accuracy},
                        {"bits_per_weight", o.bits_per_weight}});
  }
  return {{"seed", run.seed},
          {"model", run.model},
          {"experts", run.num_experts},
          {"bits", run.bits},
          {"experts_in_twice_the_bits", run.num_wide},
          {"in_both_choices", run.num_shared},
          {"outcomes", outcomes}};
}

}  // namespace strata
