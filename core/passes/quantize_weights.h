// Parameters as a store holds them in integers: F32 in the graph that a model
// builder emits, packed rows (core/quant/packed_rows.h) after this pass.
//
//   w: parameter F32[n, k]       y = MatMul(x, w^T)
//        --QuantizeWeights(graph, {{"w", INT4}})-->
//   w: parameter U8[n, bytes]    y = QuantMatMul(x, w)
//
// Experts' matrices F32[experts, n, k] and GroupedMatMul likewise, and fused
// operators, which become their twins (core/ops/quant_fused.h); where experts
// of a product have formats of their own, w becomes U8[bytes]
// (core/quant/mixed_rows.h) and the operator MixedGroupedMatMul. All other
// values stay what they were.

#ifndef CORE_PASSES_QUANTIZE_WEIGHTS_H_
#define CORE_PASSES_QUANTIZE_WEIGHTS_H_

#include <map>
#include <set>
#include <string>

#include "absl/status/statusor.h"
#include "core/graph/graph.h"
#include "core/quant/format.h"
#include "core/quant/mixed_rows.h"

namespace strata {

// The F32 parameters that nodes read only as a layer's weights: as the w of
// x w^T, or as such of a fused operator that has a twin. Those that no node
// reads are not among them.
std::set<std::string> QuantizableWeights(const Graph& graph);

// `graph` with the parameters `formats` packed, and those of `mixed` with a
// format an expert.
//
// Returns INVALID_ARGUMENT, naming the parameter, if one is not quantisable, if
// its columns cannot have its format, or if a fused operator reads one of
// `mixed`.
absl::StatusOr<Graph> QuantizeWeights(
    const Graph& graph, const std::map<std::string, QuantFormat>& formats,
    const std::map<std::string, ExpertFormats>& mixed = {});

}  // namespace strata

#endif  // CORE_PASSES_QUANTIZE_WEIGHTS_H_
