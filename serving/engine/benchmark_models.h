// Models with random weights, for benchmarks.

#ifndef SERVING_ENGINE_BENCHMARK_MODELS_H_
#define SERVING_ENGINE_BENCHMARK_MODELS_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/model/config.pb.h"
#include "core/quant/format.h"
#include "core/runtime/state_store.h"

namespace strata {

// "moe_1b", a mixture of experts as public ones are: a billion parameters, of
// which a token uses 150 million. Else the preset of that name, or its error.
absl::StatusOr<ModelConfig> BenchmarkModel(const std::string& name);

// Declares the model's parameters in BF16 where they can be, with random
// numbers of variance 1 / fan-in; gains are 1.
absl::Status FillNarrow(const ModelConfig& config, StateStore& store);

// Declares the model's layers in `format`, the output projection in INT8 with
// the same groups and the embedding in BF16, all random likewise.
absl::Status FillQuantised(const ModelConfig& config, const QuantFormat& format,
                           StateStore& store);

}  // namespace strata

#endif  // SERVING_ENGINE_BENCHMARK_MODELS_H_
