#include "core/quant/mixed_rows.h"

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "core/base/check.h"
#include "core/quant/format.h"
#include "core/quant/packed_rows.h"

namespace strata {
namespace {

constexpr int64_t kGroups[] = {0, 32, 64, 128};
// Letters before are of 4 and 8 bits in turns.
constexpr char kFirstOfTwoBits = 'Q';

}  // namespace

char LetterOf(const QuantFormat& format) {
  const auto* const group =
      std::find(std::begin(kGroups), std::end(kGroups), format.group);
  CHECK(group != std::end(kGroups)) << format.group;
  const auto index = static_cast<int>(group - std::begin(kGroups));
  if (format.bits == 2) {
    return static_cast<char>(kFirstOfTwoBits + index +
                             (format.symmetric ? 0 : 4));
  }
  return static_cast<char>('A' + (format.bits == 8 ? 1 : 0) + 2 * index +
                           (format.symmetric ? 0 : 8));
}

std::optional<QuantFormat> FormatOfLetter(char letter) {
  const int of_two = letter - kFirstOfTwoBits;
  if (of_two >= 0 && of_two < 8) {
    return QuantFormat{2, kGroups[of_two & 3], of_two < 4};
  }
  const int code = letter - 'A';
  if (code < 0 || code > 15) return std::nullopt;
  return QuantFormat{(code & 1) != 0 ? 8 : 4, kGroups[code >> 1 & 3],
                     (code & 8) == 0};
}

std::string LettersOf(const ExpertFormats& formats) {
  std::string letters;
  for (const QuantFormat& format : formats) letters += LetterOf(format);
  return letters;
}

std::optional<ExpertFormats> FormatsOfLetters(absl::string_view letters) {
  ExpertFormats formats;
  for (const char letter : letters) {
    const std::optional<QuantFormat> format = FormatOfLetter(letter);
    if (!format.has_value()) return std::nullopt;
    formats.push_back(*format);
  }
  return formats;
}

std::vector<int64_t> MixedOffsets(const ExpertFormats& formats, int64_t n,
                                  int64_t columns) {
  std::vector<int64_t> offsets = {
      LetterBytes(static_cast<int64_t>(formats.size()))};
  for (const QuantFormat& format : formats) {
    offsets.push_back(offsets.back() + n * PackedRow(format, columns).bytes);
  }
  return offsets;
}

}  // namespace strata
