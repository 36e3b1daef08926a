// The body of POST /v1/completions or /v1/chat/completions, read and checked.

#ifndef SERVING_API_API_REQUEST_H_
#define SERVING_API_API_REQUEST_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"
#include "serving/api/text_codec.h"
#include "serving/engine/engine.h"
#include "serving/schema/token_masks.h"

namespace strata {

struct ApiRequest {
  bool chat = false;
  // Of each prompt its text (of prompts given as ids: what they show) and its
  // tokens. A conversation is one prompt.
  std::vector<std::string> prompt_texts;
  std::vector<std::vector<int32_t>> prompts;
  EngineRequest engine;           // But for the prompt.
  std::vector<std::string> stop;  // Not empty strings.
  bool stream = false;
  bool include_usage = false;  // A last event of a stream with the usage.
  bool echo = false;           // The prompt before the answer.
};

struct ApiLimits {
  std::string model;  // The name that requests may give.
  int64_t vocab_size = 0;
  int64_t max_tokens = 0;    // Prompt and answer together.
  double max_seconds = 600;  // Of a request; what it asks for is cut to it.
  // For response_format; null: it is not supported.
  SchemaCache* schemas = nullptr;
};

// Reads a body. Beside OpenAI's fields (those that would change the answer and
// are not supported are errors) it knows "top_k", "min_p",
// "repetition_penalty", "ignore_eos", "priority" and "timeout" (seconds).
//
// response_format is text, json_object or json_schema, as
// serving/schema/json_schema.h knows schemas; an answer that it constrains ends
// when its JSON is whole.
//
// Returns INVALID_ARGUMENT with a message that names the field; NOT_FOUND if
// the model is not ours; errors of TextCodec::EncodeChat.
absl::StatusOr<ApiRequest> ReadApiRequest(bool chat, absl::string_view body,
                                          const TextCodec& codec,
                                          const ApiLimits& limits);

// One prompt or several, as /v1/completions has them in "prompt" and
// /v1/embeddings in "input": a string, a list of ids, or a list of either.
// `field` is the name for messages.
//
// Returns INVALID_ARGUMENT that names the field.
absl::Status ReadPrompts(const nlohmann::ordered_json& prompt,
                         const std::string& field, const TextCodec& codec,
                         const ApiLimits& limits, ApiRequest& request);

}  // namespace strata

#endif  // SERVING_API_API_REQUEST_H_
