// A model in F32 with its matrices rounded to nearest, without calibration: for
// 8 bits, where that loses little, and for random weights.

#ifndef CORE_QUANT_ROUND_PARAMETERS_H_
#define CORE_QUANT_ROUND_PARAMETERS_H_

#include <set>
#include <string>

#include "absl/status/status.h"
#include "core/graph/graph.h"
#include "core/quant/format.h"
#include "core/runtime/state_store.h"

namespace strata {

// What QuantizableWeights(graph) names, but for gates'.
std::set<std::string> RoundableWeights(const Graph& graph);

// Declares in `to`, which must be empty, the parameters and states of `graph`
// and gives them the values of `from`, where all are F32: packed rows
// (core/quant/packed_rows.h) of `names`, which must be quantisable; the others
// as they are. Matrices that the groups of `format` do not divide get a scale a
// row.
//
// Returns INVALID_ARGUMENT, naming the tensor, if a number is not finite or
// `from` holds another dtype.
absl::Status RoundParameters(const Graph& graph,
                             const std::set<std::string>& names,
                             const QuantFormat& format, StateStore& from,
                             StateStore& to);

}  // namespace strata

#endif  // CORE_QUANT_ROUND_PARAMETERS_H_
