// What caches in fewer bits and attention in powers of two cost and save: the
// measurements behind the row B3.
//
//   held-out text --> the model, a copy for each cache, 64 tokens a run
//                       |
//                       v
//   bits a token, accuracy, how far logits are from those over F32
//
//   one token over a long random text --> attention alone, for each cache
//                                           |
//                                           v
//   error of its result against the exact one, time, bytes of the cache

#ifndef TOOLS_SCORECARD_QUANT_CACHE_STUDY_H_
#define TOOLS_SCORECARD_QUANT_CACHE_STUDY_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/quant/cache_format.h"
#include "nlohmann/json.hpp"
#include "tools/scorecard/claim.h"
#include "training/data/corpus.h"

namespace strata {

// "f32", "int8", "int8, 4 bits", ...; F32 first.
struct CacheVariant {
  std::string name;
  CacheOptions cache;
};
std::vector<CacheVariant> CacheVariants();

struct CacheOutcome {
  std::string variant;
  double bits_per_token = 0;
  double accuracy = 0;     // Of the next token.
  double logit_error = 0;  // Root of the energy of l - l' over that of l.
  int64_t bytes_per_token = 0;
};

// Of the model in `folder`, on about `num_tokens` tokens of validation, in the
// order of CacheVariants().
absl::StatusOr<std::vector<CacheOutcome>> RunCacheStudy(
    const Corpus& corpus, const std::string& folder, int64_t num_tokens,
    int num_threads);

// Attention of one token over `context` others, on one thread; random queries,
// keys and values.
struct AttentionShape {
  int64_t num_heads = 16;
  int64_t num_kv_heads = 4;
  int64_t head_dim = 64;
  int64_t context = 4096;
  double spread = 4;  // Standard deviation of scores.
};
struct AttentionOutcome {
  std::string variant;
  double error = 0;  // Root of the energy of o - o' over that of o.
  std::vector<double> microseconds;  // [rounds], all variants in each.
  int64_t bytes_per_token = 0;       // Of the cache of one layer.
};
absl::StatusOr<std::vector<AttentionOutcome>> MeasureAttention(
    const AttentionShape& shape, int rounds);

// A run of one model.
struct CacheRun {
  uint64_t seed = 0;
  std::string model;
  std::vector<CacheOutcome> outcomes;
};

// B3, which promises no ratio.
ClaimResult LogDomainAttention(const std::vector<CacheRun>& runs,
                               const AttentionShape& shape,
                               const std::vector<AttentionOutcome>& attention);

nlohmann::json ToJson(const CacheRun& run);

}  // namespace strata

#endif  // TOOLS_SCORECARD_QUANT_CACHE_STUDY_H_
