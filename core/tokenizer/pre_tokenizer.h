// How tokenizer.json cuts text into the pieces within which tokens merge: the
// "pre_tokenizer".
//
//   ByteLevel, Digits, Metaspace, Sequence, Split
//
// Each one cuts the pieces of the one before. ByteLevel must be the last, as it
// is in every published file: pieces stay text here, and the model maps bytes.

#ifndef CORE_TOKENIZER_PRE_TOKENIZER_H_
#define CORE_TOKENIZER_PRE_TOKENIZER_H_

#include <cstddef>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/tokenizer/json_node.h"

namespace strata {

// Text and the pieces of it, in order, none empty. What lies between pieces is
// dropped.
struct Pieces {
  std::string text;                              // Valid UTF-8.
  std::vector<std::pair<size_t, size_t>> spans;  // Begin and end, in bytes.
  bool at_start = false;  // Nothing lies before the text.

  absl::string_view piece(size_t i) const {
    return absl::string_view(text).substr(spans[i].first,
                                          spans[i].second - spans[i].first);
  }
};

class PreTokenizer {
 public:
  // Leaves the text as one piece.
  PreTokenizer() = default;

  // Returns UNIMPLEMENTED, with the list of the supported, for another type.
  static absl::StatusOr<PreTokenizer> Parse(const JsonNode& json);

  // Tokens are spelt in the byte-level alphabet.
  bool is_byte_level() const { return is_byte_level_; }

  Pieces Split(std::string text, bool at_start) const;

 private:
  using Step = std::function<void(Pieces& pieces)>;

  absl::Status Add(const JsonNode& json, int depth);

  std::vector<Step> steps_;
  bool is_byte_level_ = false;
};

}  // namespace strata

#endif  // CORE_TOKENIZER_PRE_TOKENIZER_H_
