#include "serving/engine/decode_rate.h"

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "serving/engine/engine.h"

namespace strata {

double DecodeRate(Engine& engine, int64_t batch, int64_t new_tokens) {
  const int64_t vocab = engine.config().vocab_size();
  std::vector<std::shared_ptr<Generation>> generations;
  for (int64_t i = 0; i < batch; ++i) {
    EngineRequest request;
    for (int64_t j = 0; j < kDecodeRatePrompt; ++j) {
      request.prompt.push_back(
          static_cast<int32_t>((i * 131 + j * 17) % vocab));
    }
    request.max_new_tokens = new_tokens;
    request.sampling.draw.seed = i;
    auto generation = engine.Submit(std::move(request));
    if (!generation.ok()) return 0;
    generations.push_back(*std::move(generation));
  }
  // From when all have a token: prompts are not what is measured.
  for (const auto& generation : generations) {
    generation->Next(absl::InfiniteFuture());
  }
  const EngineStats before = engine.stats();
  const absl::Time start = absl::Now();
  for (const auto& generation : generations) {
    while (generation->Next(absl::InfiniteFuture()).has_value()) {
    }
  }
  const double seconds = absl::ToDoubleSeconds(absl::Now() - start);
  // The last step is counted when it is over.
  EngineStats after = engine.stats();
  while (after.num_running > 0) after = engine.stats();
  return static_cast<double>(after.generated_tokens - before.generated_tokens) /
         seconds;
}

}  // namespace strata
