#include "core/ops/embedding.h"

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "core/base/status_macros.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/ops/operand_checks.h"
#include "core/tensor/dtype.h"

namespace strata {
namespace {

absl::StatusOr<std::vector<ValueType>> Infer(const OpView& op) {
  RETURN_IF_ERROR(WantFloat(op, 0, "table", 2));
  RETURN_IF_ERROR(WantRank(op, 1, "ids", DType::kI32, 1));
  const ValueType& table = op.type(0);
  const DType rows = table.dtype == DType::kBF16 ? DType::kF32 : table.dtype;
  return std::vector<ValueType>{{rows, {op.type(1).dims[0], table.dims[1]}}};
}

absl::StatusOr<std::vector<ValueType>> InferGrad(const OpView& op) {
  RETURN_IF_ERROR(WantFloat(op, 0, "drows", 2));
  const ValueType& drows = op.type(0);
  RETURN_IF_ERROR(WantType(op, 1, "ids", {DType::kI32, {drows.dims[0]}}));
  const int64_t vocab = op.attrs.Int("vocab");
  return std::vector<ValueType>{{drows.dtype, {Static(vocab), drows.dims[1]}}};
}

void Gradient(GradContext& g) {
  if (!g.Needs(0)) return;
  GraphBuilder& b = g.For(0);
  const int64_t vocab = b.type(g.input(0)).dims[0].bound;
  g.Set(0, b.Add1(kEmbeddingGrad, {g.OutputGrad(0), g.input(1)},
                  {{"vocab", vocab}}));
}

double Flops(const OpView& op, const Binding& binding) { return 0; }

double GradFlops(const OpView& op, const Binding& binding) {
  return Elements(op.type(0), binding);
}

// Only the rows that are named are read.
void GatherBytes(const OpView& op, const Binding& binding, Cost& cost) {
  cost.bytes_read =
      Elements(op.output_type(0), binding) * SizeOf(op.type(0).dtype) +
      Bytes(op.type(1), binding);
}

}  // namespace

const OpDef kEmbedding = {"Embedding",    Infer,      Gradient, Flops,
                          /*mutates=*/{}, GatherBytes};
const OpDef kEmbeddingGrad = {"EmbeddingGrad", InferGrad, nullptr, GradFlops};

ValueId Embedding(GraphBuilder& b, ValueId table, ValueId ids) {
  return b.Add1(kEmbedding, {table, ids});
}

}  // namespace strata
