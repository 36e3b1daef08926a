#include "core/quant/stored_groups.h"

#include <cstdint>
#include <cstring>
#include <vector>

#include "core/quant/format.h"
#include "core/quant/quantized_matrix.h"
#include "core/tensor/bfloat16.h"

namespace strata {

void ReadCodes(const StoredGroups& groups, int64_t row, uint8_t* code,
               uint8_t* zero) {
  const QuantFormat& format = groups.format;
  const int per_word = 32 / format.bits;
  const auto mask = static_cast<uint32_t>(format.max_code());
  const uint32_t* const words =
      groups.code + row * NumWords(groups.columns, format.bits);
  for (int64_t c = 0; c < groups.columns; ++c) {
    code[c] = static_cast<uint8_t>(
        words[c / per_word] >> (c % per_word * format.bits) & mask);
  }
  const int64_t num_groups = NumGroups(format, groups.columns);
  if (format.symmetric) {
    std::memset(zero, format.middle(), num_groups);
    return;
  }
  const uint32_t* const zeros = groups.zero + row / per_word * num_groups;
  for (int64_t g = 0; g < num_groups; ++g) {
    zero[g] =
        static_cast<uint8_t>(zeros[g] >> (row % per_word * format.bits) & mask);
  }
}

void ReadRow(const StoredGroups& groups, int64_t row, float* out) {
  const int64_t num_groups = NumGroups(groups.format, groups.columns);
  const int64_t group = GroupColumns(groups.format, groups.columns);
  std::vector<uint8_t> code(groups.columns), zero(num_groups);
  ReadCodes(groups, row, code.data(), zero.data());
  for (int64_t g = 0; g < num_groups; ++g) {
    const float scale = Widen(groups.scale[row * num_groups + g]);
    for (int64_t c = g * group; c < (g + 1) * group; ++c) {
      out[c] = static_cast<float>(code[c] - zero[g]) * scale;
    }
  }
}

std::vector<uint32_t> StoredCodes(const QuantizedMatrix& matrix) {
  const int bits = matrix.format.bits, per_word = 32 / bits;
  const int64_t words = NumWords(matrix.columns, bits);
  std::vector<uint32_t> packed(matrix.rows * words);
  for (int64_t row = 0; row < matrix.rows; ++row) {
    for (int64_t c = 0; c < matrix.columns; ++c) {
      packed[row * words + c / per_word] |=
          uint32_t{matrix.code[row * matrix.columns + c]}
          << (c % per_word * bits);
    }
  }
  return packed;
}

std::vector<uint32_t> StoredZeros(const QuantizedMatrix& matrix) {
  const int bits = matrix.format.bits, per_word = 32 / bits;
  const int64_t groups = matrix.num_groups();
  std::vector<uint32_t> packed(NumWords(matrix.rows, bits) * groups);
  for (int64_t row = 0; row < matrix.rows; ++row) {
    for (int64_t g = 0; g < groups; ++g) {
      packed[row / per_word * groups + g] |=
          uint32_t{matrix.zero[row * groups + g]} << (row % per_word * bits);
    }
  }
  return packed;
}

}  // namespace strata
