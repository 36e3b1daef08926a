#include "serving/api/api_request.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "core/base/random.h"
#include "core/base/status_macros.h"
#include "nlohmann/json.hpp"
#include "serving/api/fields.h"

namespace strata {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kMaxPrompts = 128;
constexpr int64_t kMaxChoices = 64;
constexpr int64_t kMaxLogprobs = 20;
constexpr size_t kMaxStops = 16;
constexpr size_t kMaxBiases = 1024;

void ReadStop(Fields& fields, ApiRequest& request) {
  const Json& stop = fields.Any("stop");
  if (stop.is_null()) return;
  const Json list = stop.is_array() ? stop : Json::array({stop});
  for (const Json& s : list) {
    if (!s.is_string() || s.get_ref<const std::string&>().empty()) {
      fields.Fail(absl::StrCat("stop has ", Shown(s),
                               "; want strings that are not empty"));
      return;
    }
    request.stop.push_back(s.get<std::string>());
  }
  if (list.size() > kMaxStops) {
    fields.Fail(absl::StrCat("stop has ", list.size(),
                             " strings; want at most ", kMaxStops));
  }
}

void ReadBias(Fields& fields, RequestSampling& sampling) {
  const Json& bias = fields.Any("logit_bias");
  if (bias.is_null()) return;
  if (!bias.is_object() || bias.size() > kMaxBiases) {
    fields.Fail(absl::StrCat("logit_bias is ", Shown(bias),
                             "; want an object of at most ", kMaxBiases,
                             " tokens"));
    return;
  }
  for (const auto& [token, value] : bias.items()) {
    int32_t id = 0;
    if (!absl::SimpleAtoi(token, &id) || !value.is_number()) {
      fields.Fail(absl::StrCat("logit_bias has ", Shown(token), ": ",
                               Shown(value), "; want a token id and a number"));
      return;
    }
    sampling.logit_bias.emplace_back(id, value.get<double>());
  }
}

// Sets the constraint, if any.
absl::Status ReadResponseFormat(const Json& format, const ApiLimits& limits,
                                RequestSampling& sampling) {
  if (format.is_null()) return absl::OkStatus();
  constexpr char kWanted[] =
      "; want {\"type\": \"text\"}, {\"type\": \"json_object\"}, or "
      "{\"type\": \"json_schema\", \"json_schema\": {\"schema\": ...}}";
  if (!format.is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat("response_format is ", Shown(format), kWanted));
  }
  Fields fields(format);
  const std::string type = fields.String("type", "");
  const Json& named = fields.Any("json_schema");
  const absl::Status status = fields.Finish();
  if (!status.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("response_format: ", status.message()));
  }
  if (type == "text") return absl::OkStatus();
  Json schema = {{"type", "object"}};
  std::string path = "response_format";
  if (type == "json_schema") {
    path = "response_format.json_schema";
    if (!named.is_object() || !named.contains("schema")) {
      return absl::InvalidArgumentError(absl::StrCat(
          path, " is ", Shown(named), "; want an object with a schema"));
    }
    Fields inner(named);
    inner.String("name", "");
    inner.String("description", "");
    inner.Bool("strict", true);  // It always is.
    schema = inner.Any("schema");
    const absl::Status known = inner.Finish();
    if (!known.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": ", known.message()));
    }
    path += ".schema";
  } else if (type != "json_object") {
    return absl::InvalidArgumentError(
        absl::StrCat("response_format.type is ", Shown(type), kWanted));
  }
  if (limits.schemas == nullptr) {
    return absl::InvalidArgumentError("response_format is not supported here");
  }
  ASSIGN_OR_RETURN(sampling.constraint, limits.schemas->Get(schema, path));
  return absl::OkStatus();
}

// What both endpoints have.
void ReadCommon(Fields& fields, const TextCodec& codec, const ApiLimits& limits,
                ApiRequest& request) {
  EngineRequest& engine = request.engine;
  RequestSampling& sampling = engine.sampling;
  sampling.draw.temperature = fields.Number("temperature", 1);
  if (sampling.draw.temperature > 100) {
    fields.Fail(absl::StrCat("temperature is ", sampling.draw.temperature,
                             "; want 0 to 100"));
  }
  sampling.draw.top_p = fields.Number("top_p", 1);
  // -1 means none, as elsewhere.
  sampling.draw.top_k = std::max<int64_t>(
      0, fields.Int("top_k", 0, -1, std::numeric_limits<int32_t>::max()));
  sampling.min_p = fields.Number("min_p", 0);
  sampling.repetition_penalty = fields.Number("repetition_penalty", 1);
  sampling.presence_penalty = fields.Number("presence_penalty", 0);
  sampling.frequency_penalty = fields.Number("frequency_penalty", 0);
  ReadBias(fields, sampling);
  const int64_t seed =
      fields.Int("seed", -1, std::numeric_limits<int64_t>::min(),
                 std::numeric_limits<int64_t>::max());
  // Without a seed, one that no other request has.
  static const uint64_t start =
      static_cast<uint64_t>(absl::ToUnixNanos(absl::Now()));
  static std::atomic<uint64_t> count{0};
  sampling.draw.seed = fields.Any("seed").is_null()
                           ? HashCounter(start, ++count)
                           : static_cast<uint64_t>(seed);
  engine.num_choices = static_cast<int>(fields.Int("n", 1, 1, kMaxChoices));
  engine.priority = static_cast<int>(fields.Int("priority", 0, -100, 100));
  const double seconds = fields.Number("timeout", limits.max_seconds);
  if (!(seconds > 0)) {
    fields.Fail(absl::StrCat("timeout is ", seconds, "; want more than 0"));
  }
  engine.deadline =
      absl::Now() + absl::Seconds(std::min(seconds, limits.max_seconds));
  if (!fields.Bool("ignore_eos", false)) engine.stop_ids = codec.stop_ids();
  ReadStop(fields, request);
  request.stream = fields.Bool("stream", false);
  const Json& options = fields.Any("stream_options");
  if (!options.is_null()) {
    if (!options.is_object() || !request.stream) {
      fields.Fail(absl::StrCat("stream_options is ", Shown(options),
                               "; want an object, with stream true"));
    } else {
      Fields inner(options);
      request.include_usage = inner.Bool("include_usage", false);
      inner.Ignore("include_obfuscation");
      const absl::Status status = inner.Finish();
      if (!status.ok()) {
        fields.Fail(absl::StrCat("stream_options: ", status.message()));
      }
    }
  }
  // What says something to OpenAI and nothing here.
  for (const char* name : {"user", "metadata", "store", "service_tier",
                           "safety_identifier", "prompt_cache_key"}) {
    fields.Ignore(name);
  }
}

absl::StatusOr<std::vector<int32_t>> ReadIds(const Json& ids,
                                             const std::string& field,
                                             int64_t vocab_size) {
  std::vector<int32_t> tokens;
  for (const Json& id : ids) {
    if (!id.is_number_integer() || id.get<int64_t>() < 0 ||
        id.get<int64_t>() >= vocab_size) {
      return absl::InvalidArgumentError(absl::StrCat(
          field, " has token ", Shown(id), "; want 0 to ", vocab_size - 1));
    }
    tokens.push_back(id.get<int32_t>());
  }
  return tokens;
}

absl::Status AddPrompt(const Json& prompt, const std::string& field,
                       const TextCodec& codec, const ApiLimits& limits,
                       ApiRequest& request) {
  if (prompt.is_string()) {
    request.prompt_texts.push_back(prompt.get<std::string>());
    request.prompts.push_back(codec.Encode(request.prompt_texts.back()));
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(std::vector<int32_t> tokens,
                   ReadIds(prompt, field, limits.vocab_size));
  const auto text = codec.NewText({});
  std::string shown;
  for (const int32_t token : tokens) shown += text->Push(token);
  request.prompt_texts.push_back(shown + text->Finish());
  request.prompts.push_back(std::move(tokens));
  return absl::OkStatus();
}

// Messages with their content as one string each.
absl::StatusOr<Json> ReadMessages(const Json& messages) {
  if (!messages.is_array() || messages.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "messages is ", Shown(messages), "; want a list of at least one"));
  }
  Json result = Json::array();
  for (size_t i = 0; i < messages.size(); ++i) {
    const Json& message = messages[i];
    const auto wrong = [&](absl::string_view what, const Json& value,
                           absl::string_view want) {
      return absl::InvalidArgumentError(absl::StrCat(
          "messages[", i, "]", what, " is ", Shown(value), "; want ", want));
    };
    if (!message.is_object()) return wrong("", message, "an object");
    const auto role = message.find("role");
    if (role == message.end() || !role->is_string()) {
      return wrong(".role", role == message.end() ? Json() : *role, "a string");
    }
    const auto content = message.find("content");
    if (content == message.end()) return wrong(".content", Json(), "a string");
    std::string text;
    if (content->is_string()) {
      text = content->get<std::string>();
    } else if (content->is_array()) {
      for (const Json& part : *content) {
        const bool is_text = part.is_object() && part.contains("text") &&
                             part["text"].is_string() &&
                             part.value("type", "") == "text";
        if (!is_text) return wrong(".content", part, "parts of type text");
        text += part["text"].get<std::string>();
      }
    } else {
      return wrong(".content", *content, "a string");
    }
    Json copy = message;
    copy["content"] = text;
    result.push_back(copy);
  }
  return result;
}

}  // namespace

absl::Status ReadPrompts(const Json& prompt, const std::string& field,
                         const TextCodec& codec, const ApiLimits& limits,
                         ApiRequest& request) {
  const bool list = prompt.is_array() && !prompt.empty() &&
                    (prompt[0].is_string() || prompt[0].is_array());
  if (!list && !prompt.is_string() && !prompt.is_array()) {
    return absl::InvalidArgumentError(
        absl::StrCat(field, " is ", Shown(prompt),
                     "; want a string, a list of token ids, or a list of "
                     "either"));
  }
  if (!list) return AddPrompt(prompt, field, codec, limits, request);
  if (static_cast<int64_t>(prompt.size()) > kMaxPrompts) {
    return absl::InvalidArgumentError(absl::StrCat(
        field, " has ", prompt.size(), " texts; want at most ", kMaxPrompts));
  }
  for (const Json& one : prompt) {
    if (one.type() != prompt[0].type()) {
      return absl::InvalidArgumentError(
          absl::StrCat(field, " has ", Shown(one), " beside ", Shown(prompt[0]),
                       "; want all of one kind"));
    }
    RETURN_IF_ERROR(AddPrompt(one, field, codec, limits, request));
  }
  return absl::OkStatus();
}

absl::StatusOr<ApiRequest> ReadApiRequest(bool chat, absl::string_view body,
                                          const TextCodec& codec,
                                          const ApiLimits& limits) {
  ASSIGN_OR_RETURN(const Json json, ParseBody(body));
  Fields fields(json);
  ApiRequest request;
  request.chat = chat;
  ReadCommon(fields, codec, limits, request);
  const std::string model = fields.String("model", limits.model);
  int64_t max_tokens = -1;
  if (chat) {
    fields.Any("messages");
    max_tokens = fields.Int("max_tokens", -1, 0, limits.max_tokens);
    max_tokens =
        fields.Int("max_completion_tokens", max_tokens, 0, limits.max_tokens);
    const int64_t top = fields.Int("top_logprobs", 0, 0, kMaxLogprobs);
    if (fields.Bool("logprobs", false)) {
      request.engine.num_logprobs = static_cast<int>(top);
    } else if (top > 0) {
      fields.Fail("top_logprobs wants logprobs to be true");
    }
    if (max_tokens < 0) max_tokens = limits.max_tokens;  // To the end.
  } else {
    fields.Any("prompt");
    max_tokens = fields.Int("max_tokens", 16, 0, limits.max_tokens);
    request.engine.num_logprobs =
        static_cast<int>(fields.Int("logprobs", -1, 0, kMaxLogprobs));
    request.echo = fields.Bool("echo", false);
    if (request.echo && request.engine.num_logprobs >= 0) {
      fields.Fail("echo with logprobs is not supported");
    }
    if (fields.Int("best_of", request.engine.num_choices, 1, kMaxChoices) !=
        request.engine.num_choices) {
      fields.Fail(absl::StrCat("best_of is not n, which is ",
                               request.engine.num_choices,
                               "; choosing the best is not supported"));
    }
  }
  request.engine.max_new_tokens = max_tokens;
  const Json& format = fields.Any("response_format");
  RETURN_IF_ERROR(fields.Finish());
  if (model != limits.model) {
    return absl::NotFoundError(absl::StrCat(
        "model ", Shown(model), " is not here; this is ", Shown(limits.model)));
  }
  RETURN_IF_ERROR(Validate(request.engine.sampling, limits.vocab_size));
  RETURN_IF_ERROR(ReadResponseFormat(format, limits, request.engine.sampling));
  if (chat) {
    ASSIGN_OR_RETURN(const Json messages, ReadMessages(fields.Any("messages")));
    ASSIGN_OR_RETURN(std::vector<int32_t> tokens, codec.EncodeChat(messages));
    request.prompts.push_back(std::move(tokens));
    request.prompt_texts.push_back("");
    return request;
  }
  RETURN_IF_ERROR(
      ReadPrompts(fields.Any("prompt"), "prompt", codec, limits, request));
  return request;
}

}  // namespace strata
