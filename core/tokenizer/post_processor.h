// The ids that frame a text, such as a beginning-of-sequence token: the
// "post_processor" of tokenizer.json.
//
//   ByteLevel (changes no ids), Sequence, TemplateProcessing

#ifndef CORE_TOKENIZER_POST_PROCESSOR_H_
#define CORE_TOKENIZER_POST_PROCESSOR_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/tokenizer/json_node.h"

namespace strata {

class PostProcessor {
 public:
  PostProcessor() = default;

  // Returns UNIMPLEMENTED, with the list of the supported, for another type,
  // and for a template without the text.
  static absl::StatusOr<PostProcessor> Parse(const JsonNode& json);

  const std::vector<int32_t>& before() const { return before_; }
  const std::vector<int32_t>& after() const { return after_; }

 private:
  absl::Status Add(const JsonNode& json, int depth);
  absl::Status AddTemplate(const JsonNode& json);

  std::vector<int32_t> before_;
  std::vector<int32_t> after_;
};

}  // namespace strata

#endif  // CORE_TOKENIZER_POST_PROCESSOR_H_
