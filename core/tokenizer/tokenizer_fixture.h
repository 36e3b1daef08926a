// Small tokenizers for tests: the whole byte alphabet and a few merges.

#ifndef CORE_TOKENIZER_TOKENIZER_FIXTURE_H_
#define CORE_TOKENIZER_TOKENIZER_FIXTURE_H_

#include <string>
#include <vector>

#include "core/tokenizer/tokenizer.h"
#include "nlohmann/json.hpp"

namespace strata {

// A tokenizer.json whose byte-level vocabulary is: ids 0 to 255 the bytes, then
// what `merges` ("a b", in the byte-level alphabet) make, in order. It splits
// by DeepSeek V3's three expressions.
nlohmann::json ByteLevelJson(const std::vector<std::string>& merges = {});

// A tokenizer.json like SentencePiece's: <unk>, <s>, </s>, the bytes as <0xXX>
// (ids 3 to 258), `characters`, then what `merges` make. Spaces become U+2581,
// one of which comes before the text.
nlohmann::json SentencePieceJson(const std::vector<std::string>& characters,
                                 const std::vector<std::string>& merges);

// Appends an added token with the next free id; `flags` such as {"lstrip",
// true}. Returns the id.
int AddToken(nlohmann::json& tokenizer, const std::string& content,
             const nlohmann::json& flags = nlohmann::json::object());

// Parses, which must succeed.
Tokenizer MakeTokenizer(const nlohmann::json& json);

}  // namespace strata

#endif  // CORE_TOKENIZER_TOKENIZER_FIXTURE_H_
