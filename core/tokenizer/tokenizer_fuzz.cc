// tokenizer.json: what parses must take any text, and any ids it gives.

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "core/base/check.h"
#include "core/testing/fuzz_target.h"
#include "core/tokenizer/tokenizer.h"
#include "core/tokenizer/tokenizer_fixture.h"
#include "nlohmann/json.hpp"

namespace {

// Letters, digits, spaces, line ends, marks, a special token, and bytes that
// are no character.
constexpr absl::string_view kText =
    "Hello  world's 12345 times,\r\n\n\t\xC3\xA9\xE4\xBD\xA0\xF0\x9F\x98\x80 "
    "e\xCC\x81 <s>[INST] \xFF\xE4\xBD ...";

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace strata;
  const absl::string_view json(reinterpret_cast<const char*>(data), size);
  const auto tokenizer = Tokenizer::Parse(json);
  if (!tokenizer.ok()) {
    CHECK(absl::IsInvalidArgument(tokenizer.status()) ||
          absl::IsUnimplemented(tokenizer.status()))
        << tokenizer.status();
    CHECK(!tokenizer.status().message().empty());
    return 0;
  }
  // Of the file itself too, which holds the tokens.
  for (const absl::string_view text : {kText, json.substr(0, 2000)}) {
    for (const bool special : {false, true}) {
      const std::vector<int32_t> ids =
          tokenizer->Encode(text, {special, special});
      for (const int32_t id : ids) {
        CHECK(id >= 0 && id < tokenizer->vocab_size()) << id;
        CHECK(tokenizer->TokenOf(id) != nullptr) << id;
      }
      const auto back = tokenizer->Decode(ids, /*skip_special_tokens=*/special);
      CHECK(back.ok()) << back.status();
    }
  }
  CHECK(!tokenizer->Decode({tokenizer->vocab_size()}).ok());
  return 0;
}

namespace strata {

std::vector<std::string> FuzzSeeds() {
  const std::string space = "\xC4\xA0";  // As the byte-level alphabet has it.
  nlohmann::json bytes =
      ByteLevelJson({"h e", "l l", "he ll", "hell o", space + " w"});
  AddToken(bytes, "<s>", {{"special", true}});
  AddToken(bytes, "[INST]", {{"lstrip", true}, {"single_word", true}});
  nlohmann::json pieces = SentencePieceJson(
      {"\xE2\x96\x81", "h", "e", "l", "o"}, {"h e", "l l", "he ll"});
  AddToken(pieces, "<pad>");
  return {bytes.dump(), pieces.dump()};
}

}  // namespace strata
