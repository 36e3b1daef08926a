// What a fuzzer feeds: files of strangers that the tokenizer reads, each to be
// refused or to work within bounds.
//
//   't' tokenizer.json        parsed; odd texts and the file itself encoded,
//                             decoded at once and as a stream
//   'c' chat template         parsed, and rendered with few messages
//   'g' tokenizer_config.json the same, of the template in it
//
// A claim that does not hold ends the process (CHECK), which a fuzzer reports.
// For libFuzzer: LLVMFuzzerTestOneInput is one call of TokenizerOneInput.

#ifndef CORE_TOKENIZER_FUZZ_INPUTS_H_
#define CORE_TOKENIZER_FUZZ_INPUTS_H_

#include <cstddef>
#include <cstdint>

#include "absl/strings/string_view.h"

namespace strata {

// Tries what `data` is of, by its first byte; nothing for others. Returns 0.
int TokenizerOneInput(const uint8_t* data, size_t size);

// Each returns whether the content was accepted.
bool TryTokenizerJson(absl::string_view json);
bool TryChatTemplate(absl::string_view source);
bool TryTokenizerConfig(absl::string_view json);

}  // namespace strata

#endif  // CORE_TOKENIZER_FUZZ_INPUTS_H_
