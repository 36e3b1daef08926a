// The inputs of products in a model's graph, made outputs of a program: what
// calibration looks at.

#ifndef CORE_QUANT_INPUT_TAPS_H_
#define CORE_QUANT_INPUT_TAPS_H_

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/graph/graph.h"
#include "core/model/config.pb.h"
#include "core/runtime/program.h"

namespace strata {

// Sequences of `seq_len` tokens, one behind another, and the token behind each.
struct TokenBatch {
  int64_t seq_len = 0;
  std::vector<int32_t> ids;      // [sequences, seq_len]
  std::vector<int32_t> targets;  // [sequences, seq_len]
};

// Rows of x and, of experts' matrices, where each one's begin; of one batch.
// They are what all `weights` are multiplied by.
using SeeInputs = absl::FunctionRef<absl::Status(
    const std::vector<std::string>& weights, int64_t columns,
    absl::Span<const float> x, absl::Span<const int32_t> offset)>;

// The graph of evaluation, with room for the largest of `batches`.
//
// Returns INVALID_ARGUMENT if there is no batch.
absl::StatusOr<Graph> EvaluationOf(const ModelConfig& config,
                                   const std::vector<TokenBatch>& batches);

// The parameter that a product of rows is by; null where the node is none.
const Value* MultipliedBy(const Graph& graph, const Node& node);

// An input of products to be looked at.
struct InputTap {
  std::vector<std::string> weights;
  std::string x, offset;  // Outputs; no offset where the product is dense.
};

// Makes the inputs of products by parameters `names` outputs of `graph`.
std::vector<InputTap> AddTaps(const std::set<std::string>& names, Graph& graph);

// Gives a program of EvaluationOf(), or of a piece of it, a batch: those of its
// inputs that it has.
void FillBatch(const TokenBatch& batch, Program& program);

// Shows what the latest run had at the taps. Returns the first error of `see`.
absl::Status ShowTaps(const std::vector<InputTap>& taps, const Program& program,
                      SeeInputs see);

}  // namespace strata

#endif  // CORE_QUANT_INPUT_TAPS_H_
