#include "core/ops/collective.h"

#include <cstdint>
#include <numeric>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/tensor/dtype.h"

namespace strata {
namespace {

absl::StatusOr<std::vector<ValueType>> InferAllReduce(const OpView& op) {
  const size_t count = op.inputs.size();
  if (count < 1 || count > kMaxBucketStates) {
    return absl::InvalidArgumentError(absl::StrCat(
        "there are ", count, " states; want 1 to ", kMaxBucketStates));
  }
  const DType dtype = op.type(0).dtype;
  if (dtype != DType::kF32 && dtype != DType::kF64 && dtype != DType::kI32) {
    return absl::InvalidArgumentError(absl::StrCat(
        "state 0 is ", ToText(op.graph, op.type(0)), "; want F32, F64 or I32"));
  }
  for (size_t i = 1; i < count; ++i) {
    const ValueType& type = op.type(static_cast<int>(i));
    if (type.dtype == dtype) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("state ", i, " is ", ToText(op.graph, type), "; want ",
                     Name(dtype), " like state 0"));
  }
  return std::vector<ValueType>{};
}

// Those that a node has are updated.
std::vector<int> EveryInput() {
  std::vector<int> inputs(kMaxBucketStates);
  std::iota(inputs.begin(), inputs.end(), 0);
  return inputs;
}

double Flops(const OpView& op, const Binding& binding) { return 0; }

void Bytes(const OpView& op, const Binding& binding, Cost& cost) {
  double bytes = 0;
  for (size_t i = 0; i < op.inputs.size(); ++i) {
    bytes += strata::Bytes(op.type(static_cast<int>(i)), binding);
  }
  cost.bytes_read = cost.bytes_written = cost.bytes_on_wire = bytes;
}

}  // namespace

const OpDef kAllReduce = {"AllReduce",
                          InferAllReduce,
                          nullptr,
                          Flops,
                          /*mutates=*/EveryInput(),
                          Bytes};

void AllReduce(GraphBuilder& b, absl::Span<const ValueId> states,
               absl::string_view group) {
  const Phase phase = b.phase();
  b.set_phase(Phase::kUpdate);
  b.Add(kAllReduce, std::vector<ValueId>(states.begin(), states.end()),
        {{"group", std::string(group)}});
  b.set_phase(phase);
}

}  // namespace strata
