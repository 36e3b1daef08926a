// Which parameters of a model stay packed in memory, as a checkpoint has them.

#ifndef CORE_QUANT_PACKED_PARAMETERS_H_
#define CORE_QUANT_PACKED_PARAMETERS_H_

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/checkpoint/stored_tensor.h"
#include "core/checkpoint/weight_map.h"
#include "core/model/config.pb.h"
#include "core/quant/format.h"
#include "core/quant/mixed_rows.h"
#include "core/tensor/tensor.h"

namespace strata {

// Whether the parameter belongs to a gate, as "...mlp.gate.query.weight" does;
// those are never quantised.
bool IsOfGate(const std::string& name);

// The parameters that every program of generation and evaluation takes packed
// (core/passes/quantize_weights.h).
absl::StatusOr<std::set<std::string>> QuantizableParameters(
    const ModelConfig& config);

// Those of them that are worth fewer bits: not gates', which choose by them.
absl::StatusOr<std::set<std::string>> ParametersToQuantize(
    const ModelConfig& config);

// Those of QuantizableParameters whose parts in `tensors` all are quantised
// alike, with how.
absl::StatusOr<std::map<std::string, QuantFormat>> PackedParameters(
    const ModelConfig& config, const std::vector<WeightParts>& map,
    const StoredTensors& tensors);

// Experts' matrices whose parts all are quantised, but not alike: each expert's
// format (core/quant/mixed_rows.h). An expert whose own parts differ is in
// none.
absl::StatusOr<std::map<std::string, ExpertFormats>> MixedParameters(
    const ModelConfig& config, const std::vector<WeightParts>& map,
    const StoredTensors& tensors);

// For products that want rows of one format, of 4 or 8 bits: those that have
// others get the format for all of theirs (FormatForAll), and none of `mixed`
// is left.
void MakeAlike(std::map<std::string, QuantFormat>& packed,
               std::map<std::string, ExpertFormats>& mixed);

// Packs the parts of `entry` for kernels, to `to`: all rows, one after another,
// in the format that `to`'s rows have; where `to` has one extent, of mixed
// formats, in their own, behind the letters of these.
//
// Returns the errors of PackTensorRow.
absl::Status PackParts(const WeightParts& entry, const StoredTensors& tensors,
                       const TensorView& to);

}  // namespace strata

#endif  // CORE_QUANT_PACKED_PARAMETERS_H_
