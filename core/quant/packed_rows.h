// Quantised weights as the CPU's kernels read them: a row is one run of bytes.
//
//   codes     a byte each (INT8), two a byte (INT4) or four (INT2): of each 64
//             columns, in 32 or 16 bytes, the first 32 or 16 in the lowest bits
//             of these bytes, the next in those above; columns are filled up to
//             a multiple of 64 by codes of 0
//   scales    [groups]  BF16
//   zeros     [groups]  a byte each; asymmetric only
//
// A row's length says its format (FormatOfRow), so that a packed weight is a U8
// tensor [rows, bytes] or [experts, rows, bytes] that needs nothing beside it.

#ifndef CORE_QUANT_PACKED_ROWS_H_
#define CORE_QUANT_PACKED_ROWS_H_

#include <cstdint>
#include <optional>

#include "core/quant/format.h"
#include "core/quant/stored_groups.h"
#include "core/tensor/bfloat16.h"

namespace strata {

// Columns with what fills them up.
inline int64_t PaddedColumns(int64_t columns) { return (columns + 63) & ~63; }

// Where what lies in a row, and its length.
struct PackedRow {
  int64_t code_bytes = 0;
  int64_t num_groups = 0;
  int64_t bytes = 0;

  PackedRow(const QuantFormat& format, int64_t columns)
      : code_bytes(PaddedColumns(columns) * format.bits / 8),
        num_groups(NumGroups(format, columns)),
        bytes(code_bytes + num_groups * (format.symmetric ? 2 : 3)) {}
};

// The format of rows of `columns` that take `bytes`; none if there is no such.
// Where groups of 32, 64 or 128 are whole rows, it says so by that group.
std::optional<QuantFormat> FormatOfRow(int64_t bytes, int64_t columns);

// Packs codes [columns], scales and zeros [groups] to `out` [PackedRow::bytes].
void PackRow(const QuantFormat& format, int64_t columns, const uint8_t* code,
             const BFloat16* scale, const uint8_t* zero, uint8_t* out);

// Row `row` of what a file stores, in its own format or another that has all
// its numbers (FormatForAll).
void PackStoredRow(const StoredGroups& groups, int64_t row,
                   const QuantFormat& format, uint8_t* out);

// A packed row in numbers, to `out` [columns]: what kernels are held to.
void UnpackRow(const QuantFormat& format, int64_t columns, const uint8_t* row,
               float* out);

}  // namespace strata

#endif  // CORE_QUANT_PACKED_ROWS_H_
