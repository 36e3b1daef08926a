// GGUF files, the format of llama.cpp: metadata and tensors.
//
//   "GGUF", u32 version (2 or 3), u64 tensors, u64 pairs
//   pairs:    string key, u32 type, value
//   tensors:  string name, u32 axes, u64 extent [axes] (the innermost first),
//             u32 type, u64 offset
//   padding to general.alignment (32), then the tensors' data
//
// Files come from anywhere, so everything is checked before it is used.

#ifndef CORE_CHECKPOINT_GGUF_GGUF_H_
#define CORE_CHECKPOINT_GGUF_GGUF_H_

#include <cstdint>
#include <map>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/checkpoint/stored_tensor.h"

namespace strata {

// A list of the metadata, such as the tokens of a vocabulary: checked to lie in
// the file, and read when it is asked for.
struct GgufList {
  uint32_t type = 0;  // Of an element.
  uint64_t count = 0;
  absl::string_view bytes;  // Of the elements and what follows.

  // INVALID_ARGUMENT if the elements are of another kind.
  absl::StatusOr<std::vector<std::string>> Strings() const;
  absl::StatusOr<std::vector<double>> Numbers() const;
};

struct GgufFile {
  using Value = std::variant<int64_t, double, std::string>;
  std::map<std::string, Value> metadata;
  std::map<std::string, GgufList> lists;  // Views into the bytes.
  StoredTensors tensors;  // Views into the bytes; shapes outermost first.
};

// Returns INVALID_ARGUMENT, with the file and the numbers, if it is no valid
// file, and UNIMPLEMENTED for a version, byte order or tensor type that is not
// supported.
absl::StatusOr<GgufFile> ParseGguf(absl::string_view path,
                                   absl::string_view bytes);

}  // namespace strata

#endif  // CORE_CHECKPOINT_GGUF_GGUF_H_
