// Experts' matrices of several formats in one tensor, as the CPU's kernels read
// them: U8 [bytes]
//
//   letters   [experts]  a letter for each expert's format, filled up by zeros
//             to a multiple of 64 bytes
//   rows      of one expert behind another's, [n, PackedRow::bytes] each
//
// The letters say all that a tensor of rank 3 says by its last extent, so that
// such a weight, too, needs nothing beside it in the store.

#ifndef CORE_QUANT_MIXED_ROWS_H_
#define CORE_QUANT_MIXED_ROWS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "core/quant/format.h"

namespace strata {

using ExpertFormats = std::vector<QuantFormat>;  // [experts]

// 'A' to 'P', of 2 bits 'Q' to 'X', of a format that CheckFormat takes; and
// back, where another letter is none.
char LetterOf(const QuantFormat& format);
std::optional<QuantFormat> FormatOfLetter(char letter);

std::string LettersOf(const ExpertFormats& formats);
std::optional<ExpertFormats> FormatsOfLetters(absl::string_view letters);

// Bytes before the first row.
inline int64_t LetterBytes(int64_t experts) { return (experts + 63) / 64 * 64; }

// Where each expert's n rows of `columns` begin, and [experts] where all end.
std::vector<int64_t> MixedOffsets(const ExpertFormats& formats, int64_t n,
                                  int64_t columns);

}  // namespace strata

#endif  // CORE_QUANT_MIXED_ROWS_H_
