// What tokenizer.json does to text before it is split: the "normalizer".
//
//   NFC, NFD, Prepend, Replace (of a string), Sequence, Strip

#ifndef CORE_TOKENIZER_NORMALIZER_H_
#define CORE_TOKENIZER_NORMALIZER_H_

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/tokenizer/json_node.h"

namespace strata {

class Normalizer {
 public:
  // Changes nothing.
  Normalizer() = default;

  // Returns UNIMPLEMENTED, with the list of the supported, for another type.
  static absl::StatusOr<Normalizer> Parse(const JsonNode& json);

  bool changes_nothing() const { return steps_.empty(); }

  // `text` is valid UTF-8, and so is the result.
  std::string Normalize(absl::string_view text) const;

 private:
  absl::Status Add(const JsonNode& json, int depth);

  std::vector<std::function<std::string(std::string text)>> steps_;
  size_t growth_ = 1;  // Bytes that one byte may become.
};

// `text` with each occurrence of `from`, which is not empty, replaced.
std::string ReplaceAll(absl::string_view text, absl::string_view from,
                       absl::string_view to);

// The string to look for of {"pattern": {"String": "..."}}; at most 1 KiB, as
// the search may take as many steps for each byte of the text.
absl::StatusOr<std::string> ParseStringPattern(const JsonNode& json);

}  // namespace strata

#endif  // CORE_TOKENIZER_NORMALIZER_H_
