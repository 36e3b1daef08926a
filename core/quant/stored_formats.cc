#include "core/quant/stored_formats.h"

#include <cstdint>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/checkpoint/shards/expert_parts.h"
#include "core/checkpoint/weight_files.h"
#include "core/checkpoint/weight_map.h"
#include "core/quant/format.h"
#include "core/quant/quantized_files.h"
#include "core/quant/stored_matrices.h"
#include "core/tensor/dtype.h"
#include "core/tensor/shape.h"

namespace strata {
namespace {

constexpr absl::string_view kExperts = ".experts.";

}  // namespace

std::string StoredFormats::UnitOf(const WeightParts& entry, int64_t expert) {
  if (entry.shape.size() != 3) return entry.name;
  const size_t at =
      absl::string_view(entry.name).rfind(kExperts) + kExperts.size();
  return absl::StrCat(entry.name.substr(0, at), expert);
}

int64_t StoredFormats::NumMatrices(const WeightParts& entry) {
  return entry.shape.size() == 3 ? entry.shape[0] : 1;
}

QuantFormat StoredFormats::FormatOf(const WeightParts& entry,
                                    int64_t expert) const {
  QuantFormat format = format_;
  if (entry.name == kHead) format.bits = head_bits_;
  const auto chosen = bits_.find(UnitOf(entry, expert));
  if (chosen != bits_.end()) format.bits = chosen->second;
  if (rows_too_ && format.group > 0 && entry.shape.back() % format.group != 0) {
    format.group = 0;
  }
  return format;
}

StoredParts StoredFormats::PartsOf(const WeightParts& entry) const {
  StoredParts parts = {entry.parts, entry.part_shape};
  if (!by_expert_ || entry.shape.size() != 3 || entry.parts.size() > 1) {
    return parts;
  }
  parts.names.clear();
  for (int64_t e = 0; e < entry.shape[0]; ++e) {
    parts.names.push_back(ExpertPart(entry.name, e));
  }
  parts.shape.erase(parts.shape.begin());
  return parts;
}

int64_t StoredFormats::BytesOf(const WeightParts& entry, int bits) const {
  QuantFormat format = FormatOf(entry);
  format.bits = bits;
  const StoredParts parts = PartsOf(entry);
  int64_t bytes = 0;
  for (const TensorToWrite& tensor :
       GroupTensors("", GroupArrays{format, parts.shape, {}, {}, {}}.View())) {
    bytes += NumElements(tensor.shape) * SizeOf(tensor.dtype);
  }
  return bytes * static_cast<int64_t>(parts.names.size());
}

}  // namespace strata
