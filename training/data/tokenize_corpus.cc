#include "training/data/tokenize_corpus.h"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/base/sha256.h"
#include "core/tokenizer/model_tokenizer.h"
#include "core/tokenizer/tokenizer.h"
#include "training/data/corpus.h"
#include "training/data/token_ids.h"

namespace strata {
namespace {

// Appends where in a document's `num_bytes` each id's text ends, counted from
// `base` on.
void AppendEnds(const Tokenizer& tokenizer, absl::Span<const int32_t> ids,
                int64_t num_bytes, int64_t base, std::vector<int64_t>& ends) {
  const size_t begin = ends.size();
  TextStream stream(tokenizer, /*skip_special_tokens=*/false);
  int64_t decoded = 0;
  size_t num_silent = 0;  // Ids before this one that gave no text yet.
  const auto share = [&](int64_t size) {
    const auto n = static_cast<int64_t>(num_silent);
    for (int64_t i = 1; i <= n; ++i) ends.push_back(decoded + size * i / n);
    decoded += size;
    num_silent = 0;
  };
  for (const int32_t id : ids) {
    const std::string text = stream.Push(id);
    ++num_silent;
    if (!text.empty()) share(static_cast<int64_t>(text.size()));
  }
  const auto rest = static_cast<int64_t>(stream.Finish().size());
  if (num_silent > 0) {
    share(rest);
  } else {
    decoded += rest;
  }
  for (size_t i = begin; i < ends.size(); ++i) {
    const auto scaled = static_cast<__int128>(ends[i]) * num_bytes;
    ends[i] = base + (decoded > 0 ? static_cast<int64_t>(scaled / decoded)
                                  : num_bytes);
  }
  if (ends.size() > begin) ends.back() = base + num_bytes;
}

class PartEncoder {
 public:
  PartEncoder(const ModelTokenizer& tokenizer,
              const std::function<void(int64_t)>& progress)
      : tokenizer_(tokenizer), progress_(progress) {}

  // The ids of `text`; and the bytes before each, and in all, if not null.
  void Encode(absl::string_view text, TokenIds& ids,
              std::vector<int64_t>* bytes) const {
    EncodeOptions options;
    options.add_special_tokens = false;
    options.parse_special_tokens = false;
    ids = TokenIds(tokenizer_.tokenizer().vocab_size());
    if (bytes != nullptr) bytes->assign(1, 0);
    while (!text.empty()) {
      if (text.front() == kDocumentBoundary) {
        if (tokenizer_.end_token() >= 0) {
          ids.Append(tokenizer_.end_token());
          if (bytes != nullptr) bytes->push_back(bytes->back() + 1);
        }
        text.remove_prefix(1);
        continue;
      }
      const absl::string_view document =
          text.substr(0, text.find(kDocumentBoundary));
      const std::vector<int32_t> encoded =
          tokenizer_.tokenizer().Encode(document, options);
      for (const int32_t id : encoded) ids.Append(id);
      if (bytes != nullptr) {
        AppendEnds(tokenizer_.tokenizer(), encoded,
                   static_cast<int64_t>(document.size()), bytes->back(),
                   *bytes);
      }
      text.remove_prefix(document.size());
      progress_(static_cast<int64_t>(document.size()));
    }
    ids.ShrinkToFit();
  }

 private:
  const ModelTokenizer& tokenizer_;
  const std::function<void(int64_t)>& progress_;
};

}  // namespace

absl::Status TokenizeCorpus(
    const ModelTokenizer& tokenizer, Corpus& corpus,
    const std::function<void(int64_t done, int64_t wanted)>& progress) {
  if (corpus.tokenizer) {
    return absl::FailedPreconditionError("the corpus is ids already");
  }
  int64_t done = 0;
  int64_t wanted = 0;
  for (const Domain& domain : corpus.domains) {
    wanted += domain.NumTokens(CorpusPart::kTrain) +
              domain.NumTokens(CorpusPart::kValidation);
  }
  const std::function<void(int64_t)> count = [&](int64_t bytes) {
    done += bytes;
    if (progress) progress(done, wanted);
  };
  const PartEncoder encoder(tokenizer, count);
  for (Domain& domain : corpus.domains) {
    encoder.Encode(std::exchange(domain.train, ""), domain.train_ids, nullptr);
    encoder.Encode(std::exchange(domain.validation, ""), domain.validation_ids,
                   &domain.validation_bytes);
  }
  CorpusTokenizer& made_by = corpus.tokenizer.emplace();
  made_by.json = tokenizer.json();
  made_by.sha256 = Sha256Hex(made_by.json);
  made_by.vocab_size = tokenizer.tokenizer().vocab_size();
  made_by.end_token = tokenizer.end_token();
  if (made_by.end_token >= 0) {
    const std::string* const text =
        tokenizer.tokenizer().TokenOf(made_by.end_token);
    if (text != nullptr) made_by.end_text = *text;
  }
  return absl::OkStatus();
}

}  // namespace strata
