#include "core/ops/optimizer.h"

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/base/status_macros.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/ops/operand_checks.h"
#include "core/tensor/dtype.h"

namespace strata {
namespace {

absl::Status WantAnyFloat(const OpView& op, int input, absl::string_view name) {
  return WantFloat(op, input, name, op.has(input) ? op.type(input).rank() : 0);
}

absl::StatusOr<std::vector<ValueType>> InferAccumulate(const OpView& op) {
  RETURN_IF_ERROR(WantAnyFloat(op, 0, "sum"));
  const ValueType& sum = op.type(0);
  RETURN_IF_ERROR(WantType(op, 1, "value", sum));
  RETURN_IF_ERROR(WantType(op, 2, "keep", {sum.dtype, {}}));
  return std::vector<ValueType>{};
}

absl::StatusOr<std::vector<ValueType>> InferAccumulateCounts(const OpView& op) {
  const ValueType& sum = op.type(0);
  RETURN_IF_ERROR(WantType(op, 0, "sum", {DType::kI32, sum.dims}));
  RETURN_IF_ERROR(WantType(op, 1, "value", sum));
  RETURN_IF_ERROR(WantFloat(op, 2, "keep", 0));
  return std::vector<ValueType>{};
}

double AccumulateFlops(const OpView& op, const Binding& binding) {
  return 2 * Elements(op.type(0), binding);
}

absl::StatusOr<std::vector<ValueType>> InferGlobalNorm(const OpView& op) {
  RETURN_IF_ERROR(WantFloat(op, 0, "divisor", 0));
  const DType dtype = op.type(0).dtype;
  for (int i = 1; i < static_cast<int>(op.inputs.size()); ++i) {
    const std::string name = absl::StrCat("grad ", i - 1);
    RETURN_IF_ERROR(WantAnyFloat(op, i, name));
    if (op.type(i).dtype != dtype) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, " is ", ToText(op.graph, op.type(i)), "; want ",
                       Name(dtype), " like the divisor"));
    }
  }
  return std::vector<ValueType>{{dtype, {}}};
}

double GlobalNormFlops(const OpView& op, const Binding& binding) {
  double elements = 0;
  for (int i = 1; i < static_cast<int>(op.inputs.size()); ++i) {
    elements += Elements(op.type(i), binding);
  }
  return 2 * elements;
}

absl::StatusOr<std::vector<ValueType>> InferAdamW(const OpView& op) {
  RETURN_IF_ERROR(WantAnyFloat(op, 0, "param"));
  const ValueType& param = op.type(0);
  RETURN_IF_ERROR(WantType(op, 1, "m", param));
  RETURN_IF_ERROR(WantType(op, 2, "v", param));
  RETURN_IF_ERROR(WantType(op, 3, "grad", param));
  RETURN_IF_ERROR(WantType(op, 4, "norm", {param.dtype, {}}));
  RETURN_IF_ERROR(WantType(op, 5, "divisor", {param.dtype, {}}));
  RETURN_IF_ERROR(WantType(op, 6, "lr", {param.dtype, {}}));
  RETURN_IF_ERROR(WantType(op, 7, "step", {DType::kI32, {}}));
  for (const char* name : {"beta1", "beta2"}) {
    const double beta = op.attrs.Float(name);
    if (!(beta >= 0 && beta < 1)) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, " is ", beta, "; want it in [0, 1)"));
    }
  }
  return std::vector<ValueType>{};
}

// Scale the gradient 1; m 3; v 4; its root 3, m's scale 1, division 1; decay,
// step and subtraction 4.
double AdamWFlops(const OpView& op, const Binding& binding) {
  return 17 * Elements(op.type(0), binding);
}

// Puts the nodes added in its lifetime into the update phase.
class UpdatePhase {
 public:
  explicit UpdatePhase(GraphBuilder& b) : b_(b), before_(b.phase()) {
    b_.set_phase(Phase::kUpdate);
  }
  ~UpdatePhase() { b_.set_phase(before_); }
  UpdatePhase(const UpdatePhase&) = delete;
  UpdatePhase& operator=(const UpdatePhase&) = delete;

 private:
  GraphBuilder& b_;
  const Phase before_;
};

}  // namespace

const OpDef kAccumulate = {"Accumulate", InferAccumulate, nullptr,
                           AccumulateFlops, /*mutates=*/{0}};
const OpDef kAccumulateCounts = {"AccumulateCounts", InferAccumulateCounts,
                                 nullptr, AccumulateFlops, /*mutates=*/{0}};
const OpDef kGlobalNorm = {"GlobalNorm", InferGlobalNorm, nullptr,
                           GlobalNormFlops};
const OpDef kAdamW = {"AdamW", InferAdamW, nullptr, AdamWFlops,
                      /*mutates=*/{0, 1, 2}};

void Accumulate(GraphBuilder& b, ValueId sum, ValueId value, ValueId keep) {
  UpdatePhase phase(b);
  b.Add(kAccumulate, {sum, value, keep});
}

void AccumulateCounts(GraphBuilder& b, ValueId sum, ValueId value,
                      ValueId keep) {
  UpdatePhase phase(b);
  b.Add(kAccumulateCounts, {sum, value, keep});
}

ValueId GlobalNorm(GraphBuilder& b, absl::Span<const ValueId> grads,
                   ValueId divisor) {
  UpdatePhase phase(b);
  std::vector<ValueId> inputs = {divisor};
  inputs.insert(inputs.end(), grads.begin(), grads.end());
  return b.Add1(kGlobalNorm, inputs);
}

void AdamW(GraphBuilder& b, ValueId param, ValueId m, ValueId v, ValueId grad,
           ValueId norm, ValueId divisor, ValueId lr, ValueId step,
           const AdamWOptions& options) {
  UpdatePhase phase(b);
  b.Add(kAdamW, {param, m, v, grad, norm, divisor, lr, step},
        {{"beta1", options.beta1},
         {"beta2", options.beta2},
         {"eps", options.eps},
         {"weight_decay", options.weight_decay},
         {"max_norm", options.max_norm}});
}

}  // namespace strata
