// The header of a safetensors file: which tensors it holds, and where.
//
//   8 bytes     n, little-endian
//   n bytes     JSON: {"__metadata__": {"key": "value", ...},
//                      "name": {"dtype": "F32", "shape": [2, 3],
//                               "data_offsets": [0, 24]}, ...}
//   the rest    the tensors, at these offsets from here, without gaps
//
// Files come from anywhere, so everything is checked before it is used.

#ifndef CORE_CHECKPOINT_SAFETENSORS_HEADER_H_
#define CORE_CHECKPOINT_SAFETENSORS_HEADER_H_

#include <cstdint>
#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/tensor/dtype.h"
#include "core/tensor/shape.h"

namespace strata {

// Of the JSON; as the format's own implementation has it.
inline constexpr int64_t kMaxSafetensorsHeaderBytes = 100'000'000;

inline constexpr char kSafetensorsMetadata[] = "__metadata__";

struct SafetensorsEntry {
  DType dtype = DType::kF32;
  Shape shape;
  int64_t begin = 0;  // From the end of the header.
  int64_t end = 0;
};

struct SafetensorsHeader {
  std::map<std::string, SafetensorsEntry> tensors;
  std::map<std::string, std::string> metadata;
  int64_t num_bytes = 0;  // With the length in front: where the tensors start.
};

// Reads the header of the file whose whole content is `bytes`; `path` is for
// messages.
//
// Returns INVALID_ARGUMENT, with the file, the tensor and the numbers, unless
// the header is a JSON object as above without duplicates, and the tensors are
// as long as their shapes say and fill the rest exactly.
absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(
    absl::string_view path, absl::string_view bytes);

// The bytes before the tensors; their number is a multiple of 8. Entries are in
// the order of their offsets. Ignores header.num_bytes.
//
// Returns INVALID_ARGUMENT if a name is reserved or not UTF-8, or if the header
// is too long.
absl::StatusOr<std::string> SerializeSafetensorsHeader(
    const SafetensorsHeader& header);

}  // namespace strata

#endif  // CORE_CHECKPOINT_SAFETENSORS_HEADER_H_
