// Bodies of requests, as anybody may send them: completions, chat, embeddings,
// tensors, and the schemas inside.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/base/check.h"
#include "core/testing/fuzz_target.h"
#include "nlohmann/json.hpp"
#include "serving/api/api_request.h"
#include "serving/api/features.h"
#include "serving/api/fields.h"
#include "serving/api/text_codec.h"
#include "serving/schema/token_masks.h"

namespace strata {
namespace {

constexpr int64_t kVocab = 256;

const TextCodec& Codec() {
  // A folder without a tokenizer: tokens are bytes.
  static const TextCodec& codec = *[] {
    auto loaded = LoadTextCodec("/nowhere", kVocab);
    CHECK(loaded.ok()) << loaded.status();
    return loaded->release();
  }();
  return codec;
}

void CheckError(const absl::Status& status) {
  CHECK(absl::IsInvalidArgument(status) || absl::IsNotFound(status) ||
        absl::IsFailedPrecondition(status))
      << status;
  CHECK(!status.message().empty());
  // It goes into a JSON object.
  const std::string shown =
      nlohmann::json(std::string(status.message()))
          .dump(-1, ' ', false, nlohmann::json::error_handler_t::strict);
  CHECK(!shown.empty());
}

// Whatever was taken is within the bounds that the engine is promised.
void CheckRequest(const ApiRequest& request, const ApiLimits& limits) {
  CHECK(request.engine.max_new_tokens >= 0 &&
        request.engine.max_new_tokens <= limits.max_tokens);
  CHECK(request.prompts.size() == request.prompt_texts.size());
  for (const std::vector<int32_t>& prompt : request.prompts) {
    for (const int32_t token : prompt) CHECK(token >= 0 && token < kVocab);
  }
  for (const std::string& stop : request.stop) CHECK(!stop.empty());
  CHECK(Validate(request.engine.sampling, kVocab).ok());
  if (!request.engine.sampling.constraint) return;
  // The constraint says what may begin, and never gets stuck at once.
  const auto constraint = request.engine.sampling.constraint();
  std::vector<float> logits(kVocab);
  CHECK(constraint->Mask(absl::MakeSpan(logits)));
}

}  // namespace
}  // namespace strata

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace strata;
  const absl::string_view body(reinterpret_cast<const char*>(data), size);
  std::vector<std::string> bytes;
  for (int64_t i = 0; i < kVocab; ++i) {
    bytes.push_back(Codec().Bytes(static_cast<int32_t>(i)));
  }
  SchemaCache schemas(
      std::make_shared<TokenVocabulary>(bytes, Codec().stop_ids()));
  ApiLimits limits;
  limits.model = "m";
  limits.vocab_size = kVocab;
  limits.max_tokens = 512;
  limits.schemas = &schemas;
  for (const bool chat : {false, true}) {
    const auto request = ReadApiRequest(chat, body, Codec(), limits);
    if (request.ok()) {
      CheckRequest(*request, limits);
    } else {
      CheckError(request.status());
    }
  }
  const auto json = ParseBody(body);
  if (!json.ok()) {
    CheckError(json.status());
    return 0;
  }
  // A schema by itself is reached more often than inside a request.
  const auto constraint = schemas.Get(*json, "schema");
  if (!constraint.ok()) CheckError(constraint.status());
  ApiRequest request;
  const absl::Status prompts =
      ReadPrompts(json->value("input", nlohmann::ordered_json()), "input",
                  Codec(), limits, request);
  if (!prompts.ok()) CheckError(prompts);
  const auto rows = ReadIdTensor(*json, kVocab);
  if (!rows.ok()) CheckError(rows.status());
  return 0;
}

namespace strata {

std::vector<std::string> FuzzSeeds() {
  return {
      R"({"prompt": "a\u00e9", "max_tokens": 5, "temperature": 0.5, "top_p": 1,
          "n": 2, "stop": ["x", "yz"], "logit_bias": {"7": -1.5}, "seed": 3,
          "stream": true, "stream_options": {"include_usage": true}})",
      R"({"prompt": [[1, 2], [3]], "logprobs": 2, "echo": false, "min_p": 0.1,
          "presence_penalty": 1, "repetition_penalty": 1.1, "model": "m"})",
      R"({"messages": [{"role": "user", "content": [{"type": "text",
          "text": "hi"}]}], "logprobs": true, "top_logprobs": 3})",
      R"({"prompt": "a", "response_format": {"type": "json_schema",
          "json_schema": {"name": "n", "strict": true, "schema":
          {"type": "object", "required": ["a", "b"], "properties":
          {"a": {"type": "string", "maxLength": 3}, "b": {"$ref": "#/$defs/c"}},
          "$defs": {"c": {"type": "array", "minItems": 1, "items":
          {"enum": [1, "x", null]}}}}}}})",
      R"({"type": "object", "properties": {"n": {"type": "integer",
          "minimum": 1, "maximum": 9}, "k": {"anyOf": [{"type": "null"},
          {"$ref": "#"}]}}, "additionalProperties": false})",
      R"({"input": ["a", "b"], "encoding_format": "base64"})",
      R"({"name": "ids", "datatype": "INT64", "shape": [2, 2],
          "data": [[1, 2], [3, 4]]})",
  };
}

}  // namespace strata
