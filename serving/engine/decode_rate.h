// How fast an engine decodes many sequences together, for benchmarks.

#ifndef SERVING_ENGINE_DECODE_RATE_H_
#define SERVING_ENGINE_DECODE_RATE_H_

#include <cstdint>

#include "serving/engine/engine.h"

namespace strata {

inline constexpr int64_t kDecodeRatePrompt = 64;  // Tokens of each prompt.

// Tokens per second of `batch` sequences that go on for `new_tokens` from the
// moment when all have their first. Tokens are drawn at temperature 1.
double DecodeRate(Engine& engine, int64_t batch, int64_t new_tokens);

}  // namespace strata

#endif  // SERVING_ENGINE_DECODE_RATE_H_
