// strata generate

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/base/files.h"
#include "core/base/manifest.h"
#include "core/base/sha256.h"
#include "core/base/status_macros.h"
#include "core/checkpoint/load_model.h"
#include "core/checkpoint/model_files.h"
#include "core/checkpoint/weight_storage.h"
#include "core/cpu/quant/quant_product.h"
#include "core/model/config.h"
#include "core/quant/cache_format.h"
#include "core/runtime/backend.h"
#include "core/runtime/state_store.h"
#include "core/tokenizer/utf8_stream.h"
#include "nlohmann/json.hpp"
#include "serving/engine/generator.h"
#include "tools/strata/command.h"
#include "tools/strata/config_flags.h"
#include "tools/strata/device_flags.h"
#include "tools/strata/model_text.h"
#include "tools/strata/option_parser.h"
#include "tools/strata/output.h"
#include "training/run/model_folder.h"

namespace strata {
namespace {

struct GenerateFlags {
  std::string model;
  std::string prompt;
  std::string prompt_file;
  std::vector<int32_t> prompt_ids;
  bool chat = false;
  std::string system;
  GenerateOptions options;
  int threads = 1;
  DeviceFlags device;
  WeightStorage weights = WeightStorage::kAsStored;
  CacheOptions cache;
  bool json = false;
  bool no_fuse = false;
  Option* prompt_option = nullptr;
  Option* ids_option = nullptr;
};

absl::StatusOr<std::string> ReadPrompt(const GenerateFlags& flags) {
  if (flags.prompt_option->is_given()) return flags.prompt;
  if (flags.prompt_file != "-") return ReadFile(flags.prompt_file);
  return std::string(std::istreambuf_iterator<char>(std::cin), {});
}

// How often products with quantised weights rounded a row to 8 bits, and how
// often to 16.
void NoteActivations() {
  const ActivationWidths widths = CountActivationWidths();
  if (widths.rows_of_8_bits + widths.rows_of_16_bits == 0) return;
  PrintNote(absl::StrCat("activations: ", FormatInteger(widths.rows_of_8_bits),
                         " rows in 8 bits, ",
                         FormatInteger(widths.rows_of_16_bits), " in 16"));
}

double Rate(int64_t tokens, double seconds) {
  return seconds > 0 ? static_cast<double>(tokens) / seconds : 0;
}

std::string Describe(const GenerateStats& stats) {
  return absl::StrFormat(
             "prompt of %d tokens in %.2f s (%.0f tok/s), %d new tokens in "
             "%.2f s "
             "(%.0f tok/s)",
             stats.prompt_tokens, stats.prefill_seconds,
             Rate(stats.prompt_tokens, stats.prefill_seconds), stats.new_tokens,
             stats.decode_seconds,
             Rate(stats.new_tokens, stats.decode_seconds)) +
         (stats.drafted_tokens == 0
              ? ""
              : absl::StrFormat(
                    ", %d of %d drafts accepted (%.1f %%)",
                    stats.accepted_tokens, stats.drafted_tokens,
                    100.0 * stats.accepted_tokens / stats.drafted_tokens));
}

absl::Status PrintResult(const GenerateFlags& flags, const std::string& folder,
                         const ModelConfig& config, const std::string& prompt,
                         const std::string& text, const GenerateStats& stats) {
  Manifest manifest = NewManifest();
  manifest.config_hash = Sha256Hex(ToJson(config));
  manifest.seeds["sampling"] = flags.options.sampling.seed;
  ASSIGN_OR_RETURN(manifest.weights_hash, HashWeights(folder));
  PrintJson(nlohmann::json{
      {"model", folder},
      {"prompt", ToUtf8(prompt)},
      {"text", text},
      {"prompt_tokens", stats.prompt_tokens},
      {"new_tokens", stats.new_tokens},
      {"prefill_seconds", stats.prefill_seconds},
      {"decode_seconds", stats.decode_seconds},
      {"drafted_tokens", stats.drafted_tokens},
      {"accepted_tokens", stats.accepted_tokens},
      {"tokens_per_second", Rate(stats.new_tokens, stats.decode_seconds)},
      {"manifest", ToJson(manifest)}});
  return absl::OkStatus();
}

absl::StatusOr<int> RunGenerate(const GenerateFlags& flags) {
  const bool as_ids = flags.ids_option->is_given();
  std::string prompt;
  if (!as_ids) {
    ASSIGN_OR_RETURN(prompt, ReadPrompt(flags));
  }
  ASSIGN_OR_RETURN(const std::string folder, FindModel(flags.model));
  ASSIGN_OR_RETURN(const ModelConfig config, LoadModelConfig(folder));
  std::optional<ModelText> model_text;  // None: ids, as they are.
  std::vector<int32_t> tokens = flags.prompt_ids;
  GenerateOptions options = flags.options;
  if (!as_ids) {
    ASSIGN_OR_RETURN(model_text, ModelText::Load(folder, config));
    ASSIGN_OR_RETURN(tokens, flags.chat
                                 ? model_text->EncodeChat(prompt, flags.system)
                                 : model_text->Encode(prompt));
    options.stop_token = model_text->end_token();
    model_text->Begin(tokens);
  }
  // Room in the cache for what is asked for, not for what the model could read.
  ModelConfig sized = config;
  const auto prompt_tokens = static_cast<int64_t>(tokens.size());
  if (prompt_tokens < config.max_seq_len()) {
    const int64_t room = config.max_seq_len() - prompt_tokens;
    sized.set_max_seq_len(prompt_tokens +
                          std::clamp<int64_t>(options.max_new_tokens, 1, room));
  }
  ASSIGN_OR_RETURN(const std::unique_ptr<Backend> backend,
                   MakeBackend(flags.device, flags.threads));
  StateStore state(*backend);
  std::vector<UnusedTensor> unused;
  RETURN_IF_ERROR(LoadModelWeights(folder, config, state, &unused,
                                   StorageOn(flags.device, flags.weights)));
  for (const std::string& line : DescribeUnused(unused)) PrintNote(line);
  ASSIGN_OR_RETURN(
      const std::unique_ptr<Generator> generator,
      Generator::Create(sized, *backend, state, !flags.no_fuse, flags.cache,
                        Generator::kLongPrefillTokens));

  std::string text;
  const auto emit = [&](const std::string& piece) {
    text += piece;
    if (flags.json || piece.empty()) return true;
    return Print(piece) && FlushOutput();  // False if nobody reads any more.
  };
  RETURN_IF_ERROR(generator
                      ->Generate(tokens, options,
                                 [&](int32_t token) {
                                   if (as_ids) {
                                     return emit(absl::StrCat(
                                         text.empty() ? "" : " ", token));
                                   }
                                   // A model may have several of these.
                                   if (model_text->EndsText(token)) {
                                     return false;
                                   }
                                   return emit(model_text->Push(token));
                                 })
                      .status());
  if (!as_ids) emit(model_text->Finish());

  if (flags.json) {
    RETURN_IF_ERROR(
        PrintResult(flags, folder, config, prompt, text, generator->stats()));
    return 0;
  }
  if (text.empty() || text.back() != '\n') Print("\n");
  FlushOutput();
  PrintNote(Describe(generator->stats()));
  NoteActivations();
  return 0;
}

}  // namespace

Command AddGenerate(OptionParser& app) {
  OptionParser* generate = app.AddSubcommand(
      "generate", "Continue a text; the text goes to stdout as it is made");
  auto flags = std::make_shared<GenerateFlags>();
  SamplingOptions& sampling = flags->options.sampling;
  generate
      ->AddOption("--model", flags->model,
                  "Checkpoint, or run of which the newest is taken")
      ->TypeName("DIR")
      ->Required();
  auto* prompt = generate->AddGroup("prompt");
  flags->prompt_option =
      prompt->AddOption("--prompt", flags->prompt, "Text to continue")
          ->TypeName("TEXT");
  prompt
      ->AddOption("--prompt-file", flags->prompt_file,
                  "File with the text to continue; - is stdin")
      ->TypeName("FILE");
  flags->ids_option =
      prompt
          ->AddOption("--prompt-ids", flags->prompt_ids,
                      "Token ids to continue; token ids are printed, until "
                      "--max-new-tokens")
          ->TypeName("ID,ID,...")
          ->Delimiter(',');
  prompt->RequireOption(1, 1);
  Option* const chat =
      generate
          ->AddFlag("--chat", flags->chat,
                    "The prompt is a message, which the model's chat template "
                    "frames; the text is the answer")
          ->Excludes(flags->ids_option);
  generate
      ->AddOption("--system", flags->system,
                  "With --chat: what the system says before")
      ->TypeName("TEXT")
      ->Needs(chat);
  generate
      ->AddOption("--max-new-tokens", flags->options.max_new_tokens,
                  "Tokens to generate at most (bytes, where the model has no "
                  "tokenizer)")
      ->TypeName("N")
      ->Check(AtLeast(0));
  generate
      ->AddOption("--temperature", sampling.temperature,
                  "Above 1 more varied, below less; 0: always the most likely")
      ->TypeName("T");
  generate
      ->AddOption("--top-k", sampling.top_k,
                  "Draw from this many of the most likely; 0: from all")
      ->TypeName("K");
  generate
      ->AddOption("--top-p", sampling.top_p,
                  "Draw from the fewest whose probabilities add up to this")
      ->TypeName("P");
  generate->AddOption("--seed", sampling.seed, "Seed of the draws")
      ->TypeName("N");
  generate->AddFlag("--speculative", flags->options.speculative,
                    "Draft with the model's multi-token prediction module; "
                    "the same text, sooner");
  generate->AddFlag("--no-fuse", flags->no_fuse,
                    "Run the basic operators of a block one by one");
  AddWeights(*generate, flags->weights);
  AddCache(*generate, flags->cache);
  AddThreads(*generate, flags->threads);
  AddDevice(*generate, flags->device);
  AddJson(*generate, flags->json);
  return {generate, [flags] { return RunGenerate(*flags); }};
}

}  // namespace strata
