// strata train-tokenizer

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <system_error>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "core/base/files.h"
#include "core/base/progress.h"
#include "core/base/signals.h"
#include "core/base/status_macros.h"
#include "core/tokenizer/bpe_trainer.h"
#include "core/tokenizer/tokenizer.h"
#include "nlohmann/json.hpp"
#include "tools/strata/command.h"
#include "tools/strata/config_flags.h"
#include "tools/strata/option_parser.h"
#include "tools/strata/output.h"
#include "training/data/corpus.h"

namespace strata {
namespace {

struct TrainTokenizerFlags {
  std::string data;
  std::string out = "tokenizer.json";
  BpeTrainerOptions options;
  bool overwrite = false;
  bool json = false;
};

// Calls `use` for each document of a domain's text.
template <typename Use>
void ForEachDocument(const std::string& text, Use use) {
  for (const absl::string_view document :
       absl::StrSplit(text, kDocumentBoundary, absl::SkipEmpty())) {
    use(document);
  }
}

absl::StatusOr<int> RunTrainTokenizer(const TrainTokenizerFlags& flags) {
  std::error_code error;
  if (!flags.overwrite && std::filesystem::exists(flags.out, error)) {
    return absl::AlreadyExistsError(absl::StrCat(
        flags.out, " exists; --overwrite replaces it, --out names another"));
  }
  ASSIGN_OR_RETURN(const Corpus corpus, LoadCorpus(flags.data));
  PrintNotes(corpus);
  InstallInterruptHandler();

  BpeTrainer trainer;
  for (const Domain& domain : corpus.domains) {
    ForEachDocument(domain.train,
                    [&](absl::string_view document) { trainer.Add(document); });
  }
  nlohmann::ordered_json json;
  {
    BpeTrainerOptions options = flags.options;
    const int64_t first =
        256 + static_cast<int64_t>(options.special_tokens.size());
    Progress progress("train tokenizer", first, options.vocab_size);
    options.progress = [&](int64_t done, int64_t) {
      progress.Update(done + first, {});
      return !InterruptRequested();
    };
    absl::StatusOr<nlohmann::ordered_json> trained = trainer.Train(options);
    if (absl::IsCancelled(trained.status())) return kInterruptedExitCode;
    RETURN_IF_ERROR(trained.status());
    json = *std::move(trained);
  }
  const std::string content = json.dump(1) + "\n";
  // What is saved is what loads.
  ASSIGN_OR_RETURN(const Tokenizer tokenizer, Tokenizer::Parse(content));
  RETURN_IF_ERROR(WriteFileAtomically(flags.out, content));

  int64_t bytes = 0;
  int64_t tokens = 0;
  for (const Domain& domain : corpus.domains) {
    ForEachDocument(domain.validation, [&](absl::string_view document) {
      bytes += static_cast<int64_t>(document.size());
      tokens += static_cast<int64_t>(tokenizer.Encode(document).size());
    });
  }
  const double bytes_per_token =
      static_cast<double>(bytes) / static_cast<double>(tokens);
  if (flags.json) {
    PrintJson(nlohmann::json{{"out", flags.out},
                             {"vocab_size", tokenizer.vocab_size()},
                             {"train_bytes", trainer.num_bytes()},
                             {"validation_bytes", bytes},
                             {"validation_tokens", tokens},
                             {"bytes_per_token", bytes_per_token}});
    return 0;
  }
  Print(absl::StrCat(
      "tokenizer   ", flags.out, ", ", FormatInteger(tokenizer.vocab_size()),
      " tokens\nlearned of  ", FormatInteger(trainer.num_bytes()), " bytes, ",
      FormatInteger(trainer.num_distinct_pieces()), " distinct pieces\n",
      absl::StrFormat("validation  %.3f bytes per token\n", bytes_per_token)));
  return 0;
}

}  // namespace

Command AddTrainTokenizer(OptionParser& app) {
  OptionParser* train = app.AddSubcommand(
      "train-tokenizer", "Learn a byte-level BPE tokenizer.json from a corpus");
  auto flags = std::make_shared<TrainTokenizerFlags>();
  AddData(*train, flags->data);
  train->AddOption("--out", flags->out, "File to write")->TypeName("FILE");
  train->AddFlag("--overwrite", flags->overwrite, "Replace the file");
  train
      ->AddOption("--vocab-size", flags->options.vocab_size,
                  "Tokens in all: special ones, 256 bytes, merges")
      ->TypeName("N");
  train
      ->AddOption("--min-count", flags->options.min_count,
                  "Pairs that are rarer become no tokens")
      ->TypeName("N")
      ->Check(AtLeast(1));
  train
      ->AddOption("--special-token", flags->options.special_tokens,
                  "Special tokens; they have the first ids")
      ->TypeName("TEXT");
  AddJson(*train, flags->json);
  return {train, [flags] { return RunTrainTokenizer(*flags); }};
}

}  // namespace strata
