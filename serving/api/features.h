// What the model makes of inputs, without drawing a token: embeddings, and the
// Open Inference Protocol for models whose tokens are no text.

#ifndef SERVING_API_FEATURES_H_
#define SERVING_API_FEATURES_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "nlohmann/json.hpp"
#include "serving/api/api_request.h"
#include "serving/api/api_response.h"
#include "serving/api/text_codec.h"
#include "serving/engine/engine.h"

namespace strata {

struct Features {
  std::vector<float> hidden;  // [d_model], of the input's last token.
  std::vector<float> logits;  // [vocab]
};

// Runs the prompts, asking now and then whether the client has left.
//
// Returns the errors of Engine::Submit, CANCELLED if the client has left,
// DEADLINE_EXCEEDED after `deadline`, the engine's if it failed.
absl::StatusOr<std::vector<Features>> RunFeatures(
    Engine& engine, const std::vector<std::vector<int32_t>>& prompts,
    absl::Time deadline, const std::function<bool()>& client_left);

// POST /v1/embeddings: "input" as prompts are, "encoding_format" float or
// base64, "dimensions" if it is the model's width. Each embedding is the last
// token's hidden state at length 1.
//
// Returns INVALID_ARGUMENT that names the field, NOT_FOUND for another model,
// errors of RunFeatures. Adds to `usage`.
absl::StatusOr<nlohmann::ordered_json> Embed(
    absl::string_view body, const TextCodec& codec, Engine& engine,
    const ApiLimits& limits, const std::function<bool()>& client_left,
    Usage& usage);

// POST /v2/models/NAME/infer: one input "ids" (INT32 or INT64, [n] or
// [batch, n]), of which each row is a sequence; outputs "logits" (FP32,
// [batch, vocab]) of its last token and "hidden" (FP32, [batch, d_model]), or
// those of the two that "outputs" names.
absl::StatusOr<nlohmann::ordered_json> Infer(
    absl::string_view body, Engine& engine, const ApiLimits& limits,
    const std::string& version, const std::function<bool()>& client_left,
    Usage& usage);

// Its tensor: rows of ids [batch][n], each below `vocab_size`.
//
// Returns INVALID_ARGUMENT that says what is wrong.
absl::StatusOr<std::vector<std::vector<int32_t>>> ReadIdTensor(
    const nlohmann::ordered_json& tensor, int64_t vocab_size);

// GET /v2/models/NAME
nlohmann::ordered_json InferMetadata(const Engine& engine,
                                     const ApiLimits& limits,
                                     const std::string& version);

}  // namespace strata

#endif  // SERVING_API_FEATURES_H_
