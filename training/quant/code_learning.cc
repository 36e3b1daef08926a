#include "training/quant/code_learning.h"

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "core/base/check.h"
#include "core/base/status_macros.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/ops/move_codes.h"
#include "core/quant/format.h"
#include "core/quant/quantized_matrix.h"
#include "core/quant/straight_through.h"
#include "core/runtime/program.h"
#include "core/runtime/state_store.h"
#include "core/tensor/dtype.h"
#include "core/tensor/tensor.h"
#include "training/config.pb.h"
#include "training/metrics.h"
#include "training/quant/model_numbers.h"
#include "training/quant/router_tuning.h"
#include "training/step_graph.h"
#include "training/trainer.h"

namespace strata {
namespace {

// A parameter's states in a store, and rows in them.
class Learned {
 public:
  // `matrices` are of equal extents and groups.
  Learned(const std::string& parameter,
          const std::vector<QuantizedMatrix>& matrices)
      : prefix_(absl::StrCat("codes.", parameter, ".")), matrices_(matrices) {
    for (const QuantizedMatrix& m : matrices) {
      CHECK(m.rows == rows() && m.columns == columns() &&
            m.format.group == first().format.group &&
            m.format.symmetric == first().format.symmetric)
          << parameter << " has matrices that differ in more than their bits";
    }
  }

  // The node of a step of `w`, like which `dims` are.
  void AddStep(const std::string& w, const Dims& dims, ValueId rate,
               ValueId step, const TrainConfig& train, GraphBuilder& b) const {
    MoveCodesOptions options;
    options.group = first().format.group;
    options.symmetric = first().format.symmetric;
    options.beta1 = train.beta1();
    options.beta2 = train.beta2();
    options.eps = train.adam_eps();
    MoveCodes(b, b.Parameter(w, dims), b.State(GradName(w), DType::kF32, dims),
              AddCodeStates(b, prefix_, dims, options.group, num_matrices()),
              rate, step, options);
  }

  // Numbers in the middle of their codes.
  void Begin(StateStore& state) const {
    int32_t* const bits = state.Get(Name("bits")).as<int32_t>();
    const LearnedRow memory = MemoryOf(
        [&](const char* of) { return state.Get(Name(of)).as<float>(); });
    for (int64_t i = 0; i < num_matrices(); ++i) {
      bits[i] = matrices_[i].format.bits;
      for (int64_t row = 0; row < rows(); ++row) {
        BeginRow(matrices_[i], row, RowOf(memory, i, row));
      }
    }
  }

  // The matrices as `state` has them.
  std::vector<QuantizedMatrix> Rounded(const StateStore& state) const {
    const LearnedRow memory = MemoryOf(
        [&](const char* of) { return state.Read(Name(of)).as<float>(); });
    std::vector<QuantizedMatrix> rounded;
    for (int64_t i = 0; i < num_matrices(); ++i) {
      rounded.emplace_back(matrices_[i].format, rows(), columns());
      for (int64_t row = 0; row < rows(); ++row) {
        RoundRow(RowOf(memory, i, row), row, rounded.back());
      }
    }
    return rounded;
  }

 private:
  const QuantizedMatrix& first() const { return matrices_[0]; }
  int64_t rows() const { return first().rows; }
  int64_t columns() const { return first().columns; }
  int64_t num_matrices() const {
    return static_cast<int64_t>(matrices_.size());
  }
  std::string Name(const char* of) const { return absl::StrCat(prefix_, of); }

  // The first row; `tensor` gives a state's elements.
  template <typename Tensor>
  LearnedRow MemoryOf(Tensor tensor) const {
    return {first().format,  columns(),      tensor("position"),
            tensor("scale"), tensor("zero"), tensor("moments")};
  }
  // Row `row` of matrix `i`.
  LearnedRow RowOf(LearnedRow memory, int64_t i, int64_t row) const {
    const int64_t at = i * rows() + row, group = at * first().num_groups();
    memory.format = matrices_[i].format;
    memory.position += at * columns();
    memory.scale += group;
    memory.zero += group;
    memory.moments += group * kGroupMoments;
    return memory;
  }

  const std::string prefix_;
  const std::vector<QuantizedMatrix>& matrices_;
};

Dims DimsOf(const TensorView& tensor) {
  Dims dims;
  for (const int64_t extent : tensor.shape) dims.push_back(Static(extent));
  return dims;
}

// A step of all parameters, behind one of the trainer's.
absl::StatusOr<std::unique_ptr<Program>> CompileStep(
    const std::map<std::string, Learned>& parameters, Trainer& trainer) {
  GraphBuilder b;
  const ValueId rate = b.Input("learning_rate", DType::kF32, {});
  const ValueId step = b.Input("step", DType::kI32, {});
  for (const auto& [name, learned] : parameters) {
    learned.AddStep(name, DimsOf(trainer.state().Peek(name)), rate, step,
                    trainer.train_config(), b);
  }
  ASSIGN_OR_RETURN(Graph graph, b.Finish());
  return Program::Compile(std::move(graph), trainer.backend(), trainer.state());
}

}  // namespace

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

TuningOptions CodeLearningOptions() {
  TuningOptions options;
  options.learning_rate = 0.03;
  options.decays_weights = false;  // Codes are no numbers to be kept small.
  return options;
}

absl::StatusOr<LearnedCodes> LearnCodes(Trainer& trainer,
                                        const StateStore& model,
                                        QuantizedParameters& matrices,
                                        const std::function<bool()>& stop,
                                        const StepsDone& progress) {
  const TrainConfig& train = trainer.train_config();
  StateStore& state = trainer.state();
  CopyNumbers(model, state);
  LearnedCodes result;
  ASSIGN_OR_RETURN(result.before, trainer.Validate());

  ASSIGN_OR_RETURN(KeptNumbers kept,
                   KeptNumbers::Create(state, [&](const std::string& name) {
                     return matrices.count(name) == 0;
                   }));
  std::map<std::string, Learned> parameters;
  for (const auto& [name, of_name] : matrices) {
    parameters.emplace(std::piecewise_construct, std::forward_as_tuple(name),
                       std::forward_as_tuple(name, of_name));
  }
  ASSIGN_OR_RETURN(const std::unique_ptr<Program> move_codes,
                   CompileStep(parameters, trainer));
  for (const auto& [name, learned] : parameters) learned.Begin(state);
  while (!trainer.done()) {
    if (stop && stop()) {
      return absl::CancelledError(absl::StrCat("stopped after ", trainer.step(),
                                               " of ", train.steps(),
                                               " steps that learn codes"));
    }
    ASSIGN_OR_RETURN(const StepMetrics metrics, trainer.Step());
    *move_codes->Input("learning_rate").as<float>() =
        static_cast<float>(metrics.learning_rate);
    *move_codes->Input("step").as<int32_t>() =
        static_cast<int32_t>(metrics.step);
    RETURN_IF_ERROR(move_codes->Run());
    RETURN_IF_ERROR(kept.Restore());
    if (progress) progress(trainer.step(), train.steps());
  }
  ASSIGN_OR_RETURN(result.after, trainer.Validate());

  QuantizedParameters rounded;
  for (const auto& [name, learned] : parameters) {
    rounded[name] = learned.Rounded(state);
  }
  result.share_moved = ShareMoved(matrices, rounded);
  matrices = std::move(rounded);
  return result;
}

}  // namespace strata
