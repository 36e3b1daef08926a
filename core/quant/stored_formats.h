// In which format each matrix of a folder is that is being quantised, in which
// tensors it is stored, and how many bytes those take.

#ifndef CORE_QUANT_STORED_FORMATS_H_
#define CORE_QUANT_STORED_FORMATS_H_

#include <cstdint>
#include <map>
#include <string>
#include <utility>

#include "core/checkpoint/weight_map.h"
#include "core/quant/format.h"
#include "core/quant/stored_matrices.h"

namespace strata {

inline constexpr char kHead[] = "lm_head.weight";

class StoredFormats {
 public:
  // `format` of all but the output projection, whose bits are `head_bits`.
  // Where groups do not divide columns, rows get a scale if `rows_too`. With
  // `by_expert` each expert can have bits of its own, so it is stored in a
  // tensor of its own.
  StoredFormats(const QuantFormat& format, int head_bits, bool rows_too,
                bool by_expert)
      : format_(format),
        head_bits_(head_bits),
        rows_too_(rows_too),
        by_expert_(by_expert) {}

  // What has its bits in common: an expert with all its matrices, or a matrix.
  static std::string UnitOf(const WeightParts& entry, int64_t expert);
  // Experts, or 1.
  static int64_t NumMatrices(const WeightParts& entry);

  // Bits of units, in place of those of the format.
  void Choose(std::map<std::string, int> bits) { bits_ = std::move(bits); }
  const std::map<std::string, int>& chosen() const { return bits_; }

  QuantFormat FormatOf(const WeightParts& entry, int64_t expert = 0) const;
  StoredParts PartsOf(const WeightParts& entry) const;
  // Of an entry's tensors if all its matrices have so many bits.
  int64_t BytesOf(const WeightParts& entry, int bits) const;

 private:
  QuantFormat format_;
  int head_bits_;
  bool rows_too_;
  bool by_expert_;
  std::map<std::string, int> bits_;
};

}  // namespace strata

#endif  // CORE_QUANT_STORED_FORMATS_H_
