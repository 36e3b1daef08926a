// Quantised weights as files store them: the layout that the Python package
// compressed-tensors calls "pack-quantized", which Hugging Face's loaders and
// vLLM read. Of a matrix "x.weight" [rows, columns]:
//
//   x.weight_packed      I32  [rows, columns * bits / 32]   codes, along a row
//   x.weight_scale       BF16 [rows, groups]
//   x.weight_zero_point  I32  [rows * bits / 32, groups]    along a column;
//                                                           asymmetric only
//   x.weight_shape       I64  [2]                           rows, columns
//
// Of a word's codes, the first lies in the lowest bits; a last word that is not
// full has zeros above. Of experts in one tensor all of these have [experts] in
// front.

#ifndef CORE_QUANT_STORED_GROUPS_H_
#define CORE_QUANT_STORED_GROUPS_H_

#include <cstdint>
#include <vector>

#include "core/quant/format.h"
#include "core/quant/quantized_matrix.h"
#include "core/tensor/bfloat16.h"

namespace strata {

inline constexpr char kPackedSuffix[] = "_packed";
inline constexpr char kScaleSuffixOfGroups[] = "_scale";
inline constexpr char kZeroSuffix[] = "_zero_point";
inline constexpr char kShapeSuffix[] = "_shape";

// Views of the arrays above; those of experts lie one behind another.
struct StoredGroups {
  QuantFormat format;
  int64_t columns = 0;
  const uint32_t* code = nullptr;
  const BFloat16* scale = nullptr;
  const uint32_t* zero = nullptr;  // Null: symmetric.
};

// Words of so many codes of `bits`.
inline int64_t NumWords(int64_t codes, int bits) {
  return (codes * bits + 31) / 32;
}

// Codes of row `row` to `code` [columns] and zeros to `zero` [groups]. Rows of
// experts are counted through, so zeros of experts whose rows do not fill words
// cannot be read: RowsFillWords.
void ReadCodes(const StoredGroups& groups, int64_t row, uint8_t* code,
               uint8_t* zero);
// The row in numbers, to `out` [columns].
void ReadRow(const StoredGroups& groups, int64_t row, float* out);

inline bool RowsFillWords(const QuantFormat& format, int64_t rows) {
  return format.symmetric || rows * format.bits % 32 == 0;
}

// The arrays of `matrix`. Appending those of an expert behind another's gives
// those of both.
std::vector<uint32_t> StoredCodes(const QuantizedMatrix& matrix);
std::vector<uint32_t> StoredZeros(const QuantizedMatrix& matrix);

}  // namespace strata

#endif  // CORE_QUANT_STORED_GROUPS_H_
