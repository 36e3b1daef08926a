#include "tools/scorecard/quant/joint_study.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <iterator>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/base/thread_pool.h"
#include "core/checkpoint/load_model.h"
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
#include "training/config.pb.h"
#include "training/data/calibration_batches.h"
#include "training/data/corpus.h"
#include "training/metrics.h"
#include "training/run/model_folder.h"
#include "training/trainer.h"

namespace strata {
namespace {

constexpr char kExperts[] = ".experts.";
// Steps of training whose gradients say how much a weight matters.
constexpr int64_t kGradientSteps = 24;
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
using Numbers = std::map<std::string, std::vector<float>>;

// What twice the bits would spare of an expert's error.
struct Gain {
  Expert expert;
  double of_weights = 0;  // Shares of the energies of the tier's matrices.
  // What the loss would change by: the energy of each output's error, on the
  // inputs that are routed to the expert, by the mean square of the loss's
  // gradient in that output (the empirical Fisher matrix of a matrix as a
  // product of one of inputs and one of outputs, of which the diagonal; Martens
  // and Grosse, arXiv:1503.05671). Of an expert that few tokens are routed to,
  // or with little weight, both are small. The squares of the weights'
  // gradients by themselves would not see that calibration turns errors to
  // where inputs are small.
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
    ASSIGN_OR_RETURN(TrainConfig train, LoadTrainConfig(folder));
    train.set_steps(options.tuning_steps);
    train.set_warmup_steps(options.tuning_steps / 10);
    train.set_learning_rate(options.learning_rate);
    train.set_seed(options.seed + 1000);  // Other text than it was trained on.
    train.set_validation_tokens(options.validation_tokens);
    ASSIGN_OR_RETURN(
        subject->trainer_,
        Trainer::Create(subject->config_, train, &corpus, options.num_threads));
    RETURN_IF_ERROR(
        LoadModelWeights(folder, subject->config_, subject->trainer_->state()));
    ASSIGN_OR_RETURN(subject->names_, QuantizableParameters(subject->config_));
    for (auto it = subject->names_.begin(); it != subject->names_.end();) {
      it = IsOfGate(*it) ? subject->names_.erase(it) : std::next(it);
    }
    ASSIGN_OR_RETURN(
        subject->batches_,
        CalibrationBatches(corpus, subject->config_, options.calibration_tokens,
                           options.seed));
    return subject;
  }

  // The router's parameters, and in their place those of another subject.
  Numbers Gates() {
    Numbers gates;
    StateStore& state = trainer_->state();
    for (const std::string& name : state.names()) {
      if (state.role(name) != Role::kParameter || !IsOfGate(name)) continue;
      const auto numbers = state.Get(name).span<float>();
      gates[name].assign(numbers.begin(), numbers.end());
    }
    return gates;
  }
  void Put(const Numbers& numbers) {
    for (const auto& [name, values] : numbers) {
      std::copy(values.begin(), values.end(),
                trainer_->state().Get(name).as<float>());
    }
  }

  // The router alone: what training does to other parameters is undone.
  absl::Status Tune() {
    StateStore& state = trainer_->state();
    Numbers kept;
    for (const std::string& name : state.names()) {
      if (state.role(name) != Role::kParameter || IsOfGate(name)) continue;
      const auto numbers = state.Get(name).span<float>();
      kept[name].assign(numbers.begin(), numbers.end());
    }
    while (!trainer_->done()) {
      if (stop_ && stop_()) return absl::CancelledError("stopped");
      RETURN_IF_ERROR(trainer_->Step().status());
      Put(kept);
    }
    return absl::OkStatus();
  }

  // What each expert has to gain, as the model routes now. Takes the trainer's
  // steps; the weights stay.
  absl::StatusOr<std::vector<Gain>> Gains() {
    RETURN_IF_ERROR(Collect());
    ASSIGN_OR_RETURN(const Numbers fisher, SquaredGradients());
    std::map<Expert, Gain> gains;
    for (const auto& [name, squares] : fisher) {
      double energy = 0;
      for (const float w : trainer_->state().Get(name).span<float>()) {
        energy += double{w} * w;
      }
      for (int64_t e = 0; e < NumExperts(name); ++e) {
        Gain& gain = gains[{TierOf(name), e}];
        gain.expert = {TierOf(name), e};
        for (const auto& [format, sign] :
             {std::make_pair(few_, 1), std::make_pair(many_, -1)}) {
          ASSIGN_OR_RETURN(const QuantizedMatrix matrix,
                           Rounded(name, e, format));
          const double weight_error =
              AddLoss(name, e, matrix, squares, sign, gain.of_loss);
          gain.of_weights += sign * weight_error / energy;
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
    Numbers numbers;
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

  // The energy of the error of an expert's matrix; to `loss` what it costs, as
  // Gain::of_loss has it, times `sign`. `squares` are the gradients'.
  double AddLoss(const std::string& name, int64_t e,
                 const QuantizedMatrix& matrix,
                 const std::vector<float>& squares, int sign, double& loss) {
    int64_t rows, columns;
    const float* w = Weights(name, e, rows, columns);
    const float* square = &squares[e * rows * columns];
    const std::vector<float>& h = moments_.at(name)[e].sum;
    double inputs = 0;  // Their energy; 0 where no token came.
    for (int64_t c = 0; c < columns; ++c) inputs += h[c * (columns + 1)];
    double energy = 0;
    std::vector<float> error(columns);
    for (int64_t r = 0; r < rows; ++r, w += columns, square += columns) {
      matrix.DequantizeRow(r, error.data());
      // A weight's gradient is the sum of its output's times its input.
      double of_output = 0;
      for (int64_t c = 0; c < columns; ++c) {
        error[c] = w[c] - error[c];
        energy += double{error[c]} * error[c];
        of_output += square[c];
      }
      if (inputs <= 0) continue;
      double lost = 0;
      for (int64_t c = 0; c < columns; ++c) {
        double sum = 0;
        for (int64_t i = 0; i < columns; ++i) {
          sum += double{h[c * columns + i]} * error[i];
        }
        lost += sum * error[c];
      }
      loss += sign * lost * of_output / inputs;
    }
    return energy;
  }

  // Of the experts' weights, summed over steps of training, each of which is
  // undone.
  absl::StatusOr<Numbers> SquaredGradients() {
    StateStore& state = trainer_->state();
    Numbers squares, kept;
    for (const std::string& name : state.names()) {
      if (state.role(name) != Role::kParameter) continue;
      const auto numbers = state.Get(name).span<float>();
      kept[name].assign(numbers.begin(), numbers.end());
      if (names_.count(name) > 0 && !TierOf(name).empty()) {
        squares[name].resize(numbers.size());
      }
    }
    if (squares.empty()) {
      return absl::InvalidArgumentError(absl::StrCat(
          options_.model, " has no experts; want a mixture of them"));
    }
    for (int64_t i = 0; i < std::min(kGradientSteps, options_.tuning_steps);
         ++i) {
      if (stop_ && stop_()) return absl::CancelledError("stopped");
      RETURN_IF_ERROR(trainer_->Step().status());
      for (auto& [name, sum] : squares) {
        const auto gradient =
            state.Get(absl::StrCat("grad.", name)).span<float>();
        for (size_t j = 0; j < sum.size(); ++j) {
          sum[j] += gradient[j] * gradient[j];
        }
      }
      Put(kept);
    }
    return squares;
  }

  absl::Status Collect() {
    ASSIGN_OR_RETURN(
        moments_, CollectMoments(config_, names_, batches_, trainer_->backend(),
                                 trainer_->state()));
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
