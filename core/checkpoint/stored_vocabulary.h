// The vocabulary that lies in a GGUF file or in one of llama2.c, as a
// tokenizer.json.
//
//   GGUF      tokenizer.ggml.model "llama" (scores) or "gpt2" (merges), tokens,
//             token_type, scores, merges, pre, ids of begin, end, unknown
//   llama2.c  i32 longest token, then per token f32 score, i32 bytes, bytes;
//             ids 0 to 2 are <unk>, <s>, </s>, 3 to 258 the bytes
//
// Files come from anywhere: what they say is checked before it is used.

#ifndef CORE_CHECKPOINT_STORED_VOCABULARY_H_
#define CORE_CHECKPOINT_STORED_VOCABULARY_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/tokenizer/vocabulary_files.h"

namespace strata {

// Of a file that ends in .gguf, or else one of llama2.c.
//
// Returns NOT_FOUND if a GGUF file has no vocabulary, UNIMPLEMENTED for another
// model or splitter than those above, and INVALID_ARGUMENT if something is
// wrong with it; all name the file.
absl::StatusOr<TokenizerFiles> OpenVocabulary(const std::string& path);

// The same of contents.
absl::StatusOr<TokenizerFiles> ParseGgufVocabulary(const std::string& path,
                                                   absl::string_view bytes);
absl::StatusOr<TokenizerFiles> ParseLlama2cVocabulary(const std::string& path,
                                                      absl::string_view bytes);

}  // namespace strata

#endif  // CORE_CHECKPOINT_STORED_VOCABULARY_H_
