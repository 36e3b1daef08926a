// Learns a byte-level BPE vocabulary from text.
//
//   BpeTrainer trainer;
//   trainer.Add(document);                    // pieces are counted
//   ASSIGN_OR_RETURN(auto json, trainer.Train({/*vocab_size=*/4096}));
//
// Tokens begin as the bytes; the pair that is the most frequent within pieces
// becomes a token, again and again. Of equally frequent pairs the one with the
// lower ids is taken, first by its left id. So the result depends on the counts
// alone, not on the order of the text, and is what Hugging Face's trainer gives
// of the same pieces.
//
// Memory is that of the distinct pieces; a merge takes time in proportion to
// where the pair occurs in them.

#ifndef CORE_TOKENIZER_BPE_TRAINER_H_
#define CORE_TOKENIZER_BPE_TRAINER_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/tokenizer/pre_tokenizer.h"
#include "nlohmann/json.hpp"

namespace strata {

struct BpeTrainerOptions {
  // Tokens in all, special ones included; fewer if pairs run out.
  int32_t vocab_size = 4096;
  int64_t min_count = 2;  // Pairs that are rarer are no tokens.
  // The first ids, in this order.
  std::vector<std::string> special_tokens = {"<|endoftext|>"};
  // Told the merges done and wanted; false ends the training.
  std::function<bool(int64_t done, int64_t wanted)> progress;
};

class BpeTrainer {
 public:
  BpeTrainer();

  // Counts the pieces of a text. What is not UTF-8 counts as U+FFFD.
  void Add(absl::string_view text);

  int64_t num_bytes() const { return num_bytes_; }  // Added.
  int64_t num_distinct_pieces() const {
    return static_cast<int64_t>(counts_.size());
  }

  // The content of a tokenizer.json: splits as Llama 3's, the bytes, the
  // merges, the special tokens.
  //
  // Returns INVALID_ARGUMENT if vocab_size does not hold bytes and special
  // tokens, CANCELLED if `progress` said to end.
  absl::StatusOr<nlohmann::ordered_json> Train(
      const BpeTrainerOptions& options) const;

 private:
  PreTokenizer pre_tokenizer_;
  absl::flat_hash_map<std::string, int64_t> counts_;
  int64_t num_bytes_ = 0;
};

}  // namespace strata

#endif  // CORE_TOKENIZER_BPE_TRAINER_H_
