// Number formats of quantised weights: integers of 2, 4 or 8 bits, a scale a
// group of columns.
//
//   row of a matrix   |<-- group -->|<-- group -->| ...    columns
//   code              unsigned, in [0, 2^bits)
//   scale, zero       one a group: BF16, and a code
//
//   weight = (code - zero) * scale          symmetric: zero = 2^(bits - 1)
//
// All products of that formula are exact in float: 9 bits times 8.

#ifndef CORE_QUANT_FORMAT_H_
#define CORE_QUANT_FORMAT_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace strata {

struct QuantFormat {
  int bits = 4;           // 2, 4 or 8.
  int64_t group = 32;     // Columns that share a scale: 32, 64 or 128; 0: all.
  bool symmetric = true;  // Else each group has a zero of its own.

  int max_code() const { return (1 << bits) - 1; }
  int middle() const { return 1 << (bits - 1); }

  friend bool operator==(const QuantFormat& a, const QuantFormat& b) {
    return a.bits == b.bits && a.group == b.group && a.symmetric == b.symmetric;
  }
  friend bool operator!=(const QuantFormat& a, const QuantFormat& b) {
    return !(a == b);
  }
};

// "INT4, groups of 32, symmetric"
std::string ToText(const QuantFormat& format);

// Whether rows of `columns` can have that format; `name` is for the message.
//
// Returns INVALID_ARGUMENT if there is no such format, if its groups do not
// divide the columns, or if rows are so short that a file's words would not say
// of how many bits the codes are: of 2 bits up to 8 columns.
absl::Status CheckFormat(absl::string_view name, const QuantFormat& format,
                         int64_t columns);

// The narrowest format of 4 bits or more that has all numbers of rows in any of
// `formats`, of which there is one at least.
QuantFormat FormatForAll(absl::Span<const QuantFormat> formats);

// Columns of a group of rows of `columns`, and how many groups those have.
int64_t GroupColumns(const QuantFormat& format, int64_t columns);
int64_t NumGroups(const QuantFormat& format, int64_t columns);

// Of a weight, scales and zeros counted as a file stores them: codes of `bits`,
// scales of 16 bits, zeros of `bits`.
double BitsPerWeight(const QuantFormat& format, int64_t columns);

}  // namespace strata

#endif  // CORE_QUANT_FORMAT_H_
