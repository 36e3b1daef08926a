// The tokenizer.json of a vocabulary that another runtime's files hold: lists
// of tokens with scores (SentencePiece, as in llama2.c and GGUF's "llama") or
// with merges (byte-level BPE, GGUF's "gpt2").
//
// SentencePiece merges the two neighbours whose joined text is the token of the
// highest score, of equals the leftmost. Here each way to cut a token into two
// is a merge, and merges are ranked by the token's score. With distinct scores
// the ids are the same (vocabulary_files_test.cc holds the two to each other on
// random vocabularies).

#ifndef CORE_TOKENIZER_VOCABULARY_FILES_H_
#define CORE_TOKENIZER_VOCABULARY_FILES_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace strata {

// The numbers are those of GGUF's tokenizer.ggml.token_type.
enum class PieceType : int32_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,      // Never in text, such as <s>.
  kUserDefined = 4,  // Found in text before it is split.
  kUnused = 5,
  kByte = 6,  // <0x00> to <0xFF>.
};

struct Vocabulary {
  std::vector<std::string> tokens;  // By id; spaces as U+2581, or bytes in the
                                    // byte-level alphabet.
  std::vector<PieceType> types;     // [tokens], or empty: all are normal.
  std::vector<float> scores;        // [tokens], of SentencePiece.
  std::vector<std::string> merges;  // "a b", of byte-level BPE.
  std::string splitter;             // Of it, as GGUF's tokenizer.ggml.pre.
  int32_t begin_token = -1;         // -1: there is none.
  int32_t end_token = -1;
  int32_t unknown_token = -1;
  bool adds_begin = false;        // Before a text.
  bool adds_space_prefix = true;  // SentencePiece: a space before a text.
  std::string chat_template;      // "": there is none.
};

struct TokenizerFiles {
  std::string tokenizer;  // tokenizer.json
  std::string config;     // tokenizer_config.json
  // Pieces whose score another one has, too: of two such the leftmost goes
  // first in SentencePiece, and the one with the lower id here.
  int64_t num_ties = 0;
};

// Returns INVALID_ARGUMENT if tokens are missing, a score is NaN, the lists
// differ in length, or two tokens are one text.
absl::StatusOr<TokenizerFiles> SentencePieceFiles(const Vocabulary& vocabulary);

// Returns the same, and UNIMPLEMENTED, with the list of the supported, for
// another splitter.
absl::StatusOr<TokenizerFiles> ByteLevelFiles(const Vocabulary& vocabulary);

}  // namespace strata

#endif  // CORE_TOKENIZER_VOCABULARY_FILES_H_
