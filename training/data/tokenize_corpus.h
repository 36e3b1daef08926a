// Bytes of a corpus to ids of a tokenizer.
//
//   \0 document \0 document \0   ->   end ids end ids end
//
// Documents are encoded one by one, and special tokens that their text spells
// stay text. Where the tokenizer has no end token nothing is between them.
//
// A model that learns ids is validated by the bits of a byte of text, so that
// it compares with one that learns bytes. The bytes of an id are those that
// decoding adds with it; ids that give text together share it evenly, and where
// decoding does not give a document back (a normalizer, bytes that are not
// UTF-8), all of the document's ids share its bytes in proportion. So the bytes
// of any run of documents are exact, and those of a window to a few.

#ifndef TRAINING_DATA_TOKENIZE_CORPUS_H_
#define TRAINING_DATA_TOKENIZE_CORPUS_H_

#include <cstdint>
#include <functional>

#include "absl/status/status.h"
#include "core/tokenizer/model_tokenizer.h"
#include "training/data/corpus.h"

namespace strata {

// Replaces the bytes of `corpus` by ids. Ids take two bytes where the
// vocabulary has at most 65,536 tokens, four else, so the corpus becomes
// smaller.
//
// `progress` is told the bytes done and wanted.
//
// Returns FAILED_PRECONDITION if the corpus is ids already.
absl::Status TokenizeCorpus(
    const ModelTokenizer& tokenizer, Corpus& corpus,
    const std::function<void(int64_t done, int64_t wanted)>& progress = {});

}  // namespace strata

#endif  // TRAINING_DATA_TOKENIZE_CORPUS_H_
