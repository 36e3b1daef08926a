#include "core/quant/format.h"

#include <algorithm>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace strata {

std::string ToText(const QuantFormat& format) {
  return absl::StrCat("INT", format.bits, ", ",
                      format.group == 0
                          ? "a scale a row"
                          : absl::StrCat("groups of ", format.group),
                      format.symmetric ? ", symmetric" : ", asymmetric");
}

absl::Status CheckFormat(absl::string_view name, const QuantFormat& format,
                         int64_t columns) {
  if (format.bits != 2 && format.bits != 4 && format.bits != 8) {
    return absl::InvalidArgumentError(absl::StrCat(
        "tensor \"", name, "\": ", format.bits, " bits; want 2, 4 or 8"));
  }
  if (format.group != 0 && format.group != 32 && format.group != 64 &&
      format.group != 128) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor \"", name, "\": groups of ", format.group,
                     "; want 32, 64 or 128, or 0 for a scale a row"));
  }
  if (columns < 1 || (format.group != 0 && columns % format.group != 0)) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor \"", name, "\": groups of ", format.group,
                     " do not divide its rows of ", columns, " columns"));
  }
  // In words of 32 bits as many codes of 4 bits take no more.
  if (format.bits == 2 && columns <= 8) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor \"", name, "\": rows of ", columns,
                     " columns; codes of 2 bits want more than 8"));
  }
  return absl::OkStatus();
}

QuantFormat FormatForAll(absl::Span<const QuantFormat> formats) {
  QuantFormat all = {/*bits=*/4, formats[0].group, /*symmetric=*/true};
  for (const QuantFormat& format : formats) {
    all.bits = std::max(all.bits, format.bits);
    all.symmetric &= format.symmetric;
    // A scale of many columns is that of a part of them, too.
    const bool is_finer =
        format.group != 0 && (all.group == 0 || format.group < all.group);
    if (is_finer) all.group = format.group;
  }
  return all;
}

int64_t GroupColumns(const QuantFormat& format, int64_t columns) {
  return format.group == 0 ? columns : format.group;
}

int64_t NumGroups(const QuantFormat& format, int64_t columns) {
  return columns / GroupColumns(format, columns);
}

double BitsPerWeight(const QuantFormat& format, int64_t columns) {
  const double group_bits = 16 + (format.symmetric ? 0 : format.bits);
  return format.bits +
         group_bits / static_cast<double>(GroupColumns(format, columns));
}

}  // namespace strata
