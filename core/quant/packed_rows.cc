#include "core/quant/packed_rows.h"

#include <cstdint>
#include <cstring>
#include <optional>
#include <vector>

#include "core/quant/format.h"
#include "core/quant/stored_groups.h"
#include "core/tensor/bfloat16.h"

namespace strata {
namespace {

constexpr int64_t kBlock = 64;  // Columns whose codes lie together.

// Where the code of a column lies in a row.
struct CodePlace {
  int64_t byte;
  int shift;

  CodePlace(int bits, int64_t c) {
    const int64_t block_bytes = kBlock * bits / 8, in_block = c % kBlock;
    byte = c / kBlock * block_bytes + in_block % block_bytes;
    shift = static_cast<int>(in_block / block_bytes) * bits;
  }
};

}  // namespace

std::optional<QuantFormat> FormatOfRow(int64_t bytes, int64_t columns) {
  for (const int bits : {2, 4, 8}) {
    for (const int64_t group : {32, 64, 128, 0}) {
      if (group > 0 && columns % group != 0) continue;
      for (const bool symmetric : {true, false}) {
        const QuantFormat format = {bits, group, symmetric};
        if (PackedRow(format, columns).bytes == bytes) return format;
      }
    }
  }
  return std::nullopt;
}

void PackRow(const QuantFormat& format, int64_t columns, const uint8_t* code,
             const BFloat16* scale, const uint8_t* zero, uint8_t* out) {
  const PackedRow layout(format, columns);
  std::memset(out, 0, layout.code_bytes);
  for (int64_t c = 0; c < columns; ++c) {
    const CodePlace place(format.bits, c);
    out[place.byte] |= static_cast<uint8_t>(code[c] << place.shift);
  }
  std::memcpy(out + layout.code_bytes, scale,
              layout.num_groups * sizeof(BFloat16));
  if (format.symmetric) return;
  std::memcpy(out + layout.code_bytes + 2 * layout.num_groups, zero,
              layout.num_groups);
}

void PackStoredRow(const StoredGroups& groups, int64_t row,
                   const QuantFormat& format, uint8_t* out) {
  const QuantFormat& own = groups.format;
  const int64_t columns = groups.columns;
  const int64_t own_groups = NumGroups(own, columns);
  const int64_t num_groups = NumGroups(format, columns);
  std::vector<uint8_t> code(columns), own_zero(own_groups, own.middle());
  ReadCodes(groups, row, code.data(), own_zero.data());
  // A number is its code's distance from zero.
  if (own.symmetric && format.symmetric) {
    for (uint8_t& c : code) c += format.middle() - own.middle();
  }
  std::vector<uint8_t> zero(num_groups);
  std::vector<BFloat16> scale(num_groups);
  for (int64_t g = 0; g < num_groups; ++g) {
    const int64_t own_group = g * own_groups / num_groups;
    zero[g] = own_zero[own_group];
    scale[g] = groups.scale[row * own_groups + own_group];
  }
  PackRow(format, columns, code.data(), scale.data(), zero.data(), out);
}

void UnpackRow(const QuantFormat& format, int64_t columns, const uint8_t* row,
               float* out) {
  const PackedRow layout(format, columns);
  const int64_t group = GroupColumns(format, columns);
  const uint8_t* const scales = row + layout.code_bytes;
  const uint8_t* const zeros = scales + 2 * layout.num_groups;
  for (int64_t g = 0; g < layout.num_groups; ++g) {
    BFloat16 scale;
    std::memcpy(&scale, scales + 2 * g, sizeof(scale));
    const int zero = format.symmetric ? format.middle() : zeros[g];
    for (int64_t c = g * group; c < (g + 1) * group; ++c) {
      const CodePlace place(format.bits, c);
      const int code = row[place.byte] >> place.shift & format.max_code();
      out[c] = static_cast<float>(code - zero) * Widen(scale);
    }
  }
}

}  // namespace strata
