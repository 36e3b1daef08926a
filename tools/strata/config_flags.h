// Flags that subcommands share: the config, the data, the threads, how weights
// and caches are kept.

#ifndef TOOLS_STRATA_CONFIG_FLAGS_H_
#define TOOLS_STRATA_CONFIG_FLAGS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/checkpoint/weight_storage.h"
#include "core/model/config.pb.h"
#include "core/quant/cache_format.h"
#include "core/tokenizer/model_tokenizer.h"
#include "tools/strata/option_parser.h"
#include "training/config.pb.h"
#include "training/data/corpus.h"

namespace strata {

struct Configs {
  ModelConfig model;
  TrainConfig train;
};

// The presets of that name.
//
// Returns NOT_FOUND, with the names there are, if there is none.
absl::StatusOr<Configs> PresetConfigs(const std::string& name);

// Sets fields: "model.moe.hierarchical.tau=0.8", "train.steps=10"; a path
// without "model." or "train." is looked up in both.
//
// Returns INVALID_ARGUMENT, with the fields there are, if there is none.
absl::Status SetFields(const std::vector<std::string>& assignments,
                       Configs& configs);

// The demo's corpus if `folder` is empty.
absl::StatusOr<Corpus> LoadCorpus(const std::string& folder);
void PrintNotes(const Corpus& corpus);

// Makes ids of the corpus, under a progress bar if it is large.
absl::Status TokenizeWithProgress(const ModelTokenizer& tokenizer,
                                  Corpus& corpus);

// The corpus in the tokens of the model in `model_folder`: ids if it has a
// tokenizer, bytes otherwise.
absl::StatusOr<Corpus> LoadCorpusFor(const std::string& model_folder,
                                     const std::string& data);

void AddPreset(OptionParser& app, std::string& preset);
void AddSet(OptionParser& app, std::vector<std::string>& assignments);
void AddData(OptionParser& app, std::string& folder);
void AddThreads(OptionParser& app, int& num_threads);
// What --weights may say.
//
// Returns INVALID_ARGUMENT if it is neither bf16 nor f32.
absl::StatusOr<WeightStorage> WeightStorageOf(absl::string_view name);
// How weights lie in memory (core/checkpoint/weight_storage.h).
void AddWeights(OptionParser& app, WeightStorage& storage);
// How keys and values lie in memory, and attention's probabilities: --cache and
// --attention-bits. Whether they go together is for CheckCacheOptions to say.
void AddCache(OptionParser& app, CacheOptions& cache);
void AddJson(OptionParser& app, bool& json);

}  // namespace strata

#endif  // TOOLS_STRATA_CONFIG_FLAGS_H_
