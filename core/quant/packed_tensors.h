// Quantised weights among the tensors of a checkpoint: what stored_groups.h
// lays out in three or four tensors becomes one, under the weight's own name,
// that the common readers take as numbers.

#ifndef CORE_QUANT_PACKED_TENSORS_H_
#define CORE_QUANT_PACKED_TENSORS_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "core/checkpoint/stored_tensor.h"
#include "core/quant/format.h"

namespace strata {

// Replaces "x.weight_packed", "_scale", "_zero_point" and "_shape" in `tensors`
// by "x.weight", whose packing is kGroups; the memory stays theirs.
//
// Returns INVALID_ARGUMENT, naming the tensor, if one of them is missing or is
// not what the others say, and UNIMPLEMENTED for columns in another order (a
// "weight_g_idx").
absl::Status MergePackedTensors(const std::string& where,
                                StoredTensors& tensors);

// Bytes of a quantised tensor in its file: codes, scales and zeros.
int64_t StoredBytes(const StoredTensor& tensor);

// Row `row` of packed `tensor`, packed anew for kernels (PackStoredRow) in
// `format`, to `out` [PackedRow::bytes].
//
// Returns INVALID_ARGUMENT if a scale of it is a NaN or an infinity.
absl::Status PackTensorRow(const std::string& name, const StoredTensor& tensor,
                           int64_t row, const QuantFormat& format,
                           uint8_t* out);

}  // namespace strata

#endif  // CORE_QUANT_PACKED_TENSORS_H_
