// The text that a model is trained on: bytes of domains, split into what it
// learns from and what it is validated on.
//
//   documents of a domain      files of a folder, or of packages
//     |
//     |  about a tenth of the domain's bytes: whole documents, in the order of
//     |  a hash of their paths, and of one document the end
//     v
//   Domain::validation         \0 document \0 document ... \0
//   Domain::train              the same, of all other bytes
//
// A token is a byte, unless a tokenizer made ids of them (tokenize_corpus.h).
// Byte 0 stands between documents and at both ends, so it is where a text
// begins and ends; it is dropped from the documents themselves. Nothing else is
// changed, and nothing is assumed about the encoding.
//
// The split depends on the paths and sizes of the documents alone, so it is the
// same on every machine, and adding a file moves few others. Exact copies of a
// document are left out, so that none stands on both sides.
//
// The whole corpus lies in memory.

#ifndef TRAINING_DATA_CORPUS_H_
#define TRAINING_DATA_CORPUS_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "training/data/token_ids.h"

namespace strata {

inline constexpr int kByteVocabSize = 256;
inline constexpr char kDocumentBoundary = '\0';

struct Document {
  std::string path;  // Relative to the domain, with '/'. Unique in its domain.
  std::string text;
};

struct DomainDocuments {
  std::string name;
  std::vector<Document>
      documents;  // In the order in which they are trained on.
};

enum class CorpusPart { kTrain, kValidation };

struct Domain {
  std::string name;
  std::string train;
  std::string validation;

  // What the bytes became, which are gone then, in a corpus with a tokenizer.
  TokenIds train_ids = {};
  TokenIds validation_ids = {};
  // Bytes of the text before each of validation_ids, and of all of it.
  std::vector<int64_t> validation_bytes = {};  // [validation_ids + 1]

  int64_t NumTokens(CorpusPart part) const;
  // Fills `tokens` with those from number `first` on; there are as many.
  void CopyTokens(CorpusPart part, int64_t first,
                  absl::Span<int32_t> tokens) const;
  // How many bytes of text `num_tokens` of validation from number `first` on
  // are. What separates documents counts as one, as the byte that it is.
  int64_t NumValidationTextBytes(int64_t first, int64_t num_tokens) const;
};

// What made ids of a corpus, for those who have to do the same again.
struct CorpusTokenizer {
  std::string json;    // The content of its tokenizer.json ...
  std::string sha256;  // ... and the hash of that.
  int64_t vocab_size = 0;
  int32_t end_token = -1;  // Between documents; -1: nothing is.
  std::string end_text;    // How the file spells it.
};

struct Corpus {
  std::vector<Domain> domains;

  // None: a token is a byte.
  std::optional<CorpusTokenizer> tokenizer;

  // Of all names and bytes of `domains`, in hexadecimal; not of ids.
  std::string sha256;

  // Where the text comes from: a folder, or packages with their versions.
  std::vector<std::string> sources;

  // What a person should be told once, a sentence each.
  std::vector<std::string> notes;

  // Ids that a model must know.
  int64_t vocab_size() const {
    return tokenizer ? tokenizer->vocab_size : kByteVocabSize;
  }
};

// How many of a domain's bytes are for validation: a tenth; at least 4 KiB, but
// never more than half.
size_t NumValidationBytes(size_t num_bytes);

// Splits documents into a corpus. Called by the loaders below and in
// demo_corpus.h.
//
// Returns INVALID_ARGUMENT if a domain has no text.
absl::StatusOr<Corpus> MakeCorpus(std::vector<DomainDocuments> domains);

// Reads a folder: each subfolder is a domain, each file below it a document, in
// the order of their paths' bytes. Names that begin with a dot are passed over;
// symbolic links to folders are followed for a domain, not below it.
//
// Returns NOT_FOUND if there is no such folder, INVALID_ARGUMENT if it is no
// folder, is empty or has no subfolder, or if a domain has no text, and the
// system's error, naming the path, if something in it cannot be read.
absl::StatusOr<Corpus> LoadFolderCorpus(const std::string& folder);

// Returns INVALID_ARGUMENT if a domain's tokens for training or validation are
// too few for one sequence of `seq_len` and the token after it.
absl::Status CheckLongEnough(const Corpus& corpus, int64_t seq_len);

// Whether `text` is well-formed UTF-8.
bool IsUtf8(const std::string& text);

}  // namespace strata

#endif  // TRAINING_DATA_CORPUS_H_
