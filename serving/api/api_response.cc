#include "serving/api/api_response.h"

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

namespace strata {
namespace {

using Json = nlohmann::ordered_json;

// -infinity is no JSON number; OpenAI writes this for it.
constexpr float kLeastLogprob = -9999;

Json ReasonJson(absl::string_view reason) {
  return reason.empty() ? Json(nullptr) : Json(std::string(reason));
}

Json Head(const ResponseHead& head, bool chunk) {
  std::string object = head.chat ? "chat.completion" : "text_completion";
  if (head.chat && chunk) object += ".chunk";
  Json json = {{"id", head.id},
               {"object", object},
               {"created", head.created},
               {"model", head.model}};
  if (!head.version.empty()) json["system_fingerprint"] = head.version;
  return json;
}

Json ChatToken(const TokenLogprob& logprob, const TextCodec& codec) {
  const std::string text = codec.Show(logprob.token);
  Json bytes = Json::array();
  for (const char c : text) bytes.push_back(static_cast<unsigned char>(c));
  return {{"token", text},
          {"logprob", std::max(kLeastLogprob, logprob.logprob)},
          {"bytes", bytes}};
}

}  // namespace

int HttpStatus(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kFailedPrecondition:
      return 400;
    case absl::StatusCode::kUnauthenticated:
      return 401;
    case absl::StatusCode::kNotFound:
      return 404;
    case absl::StatusCode::kDeadlineExceeded:
      return 408;
    case absl::StatusCode::kResourceExhausted:
      return 429;
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kCancelled:
      return 503;
    default:
      return 500;
  }
}

Json ErrorObject(int http_status, absl::string_view message) {
  const char* type = "invalid_request_error";
  Json code = nullptr;
  if (http_status == 401) code = "invalid_api_key";
  if (http_status == 404) code = "not_found";
  if (http_status == 429) type = "rate_limit_error";
  if (http_status >= 500) type = "server_error";
  return {{"error",
           {{"message", std::string(message)},
            {"type", type},
            {"param", nullptr},
            {"code", code}}}};
}

Json ToJson(const Usage& usage) {
  return {{"prompt_tokens", usage.prompt_tokens},
          {"completion_tokens", usage.completion_tokens},
          {"total_tokens", usage.prompt_tokens + usage.completion_tokens}};
}

void LogprobList::Add(const std::vector<TokenLogprob>& logprobs,
                      const TextCodec& codec) {
  ++num_tokens_;
  if (chat_) {
    Json token = ChatToken(logprobs[0], codec);
    Json top = Json::array();
    for (size_t i = 1; i < logprobs.size(); ++i) {
      top.push_back(ChatToken(logprobs[i], codec));
    }
    token["top_logprobs"] = top;
    json_["content"].push_back(token);
    return;
  }
  const std::string text = codec.Show(logprobs[0].token);
  json_["tokens"].push_back(text);
  json_["token_logprobs"].push_back(
      std::max(kLeastLogprob, logprobs[0].logprob));
  Json top = Json::object();
  for (size_t i = 1; i < logprobs.size(); ++i) {
    // Of tokens that show alike the more likely counts.
    top.emplace(codec.Show(logprobs[i].token),
                std::max(kLeastLogprob, logprobs[i].logprob));
  }
  json_["top_logprobs"].push_back(top);
  json_["text_offset"].push_back(offset_);
  offset_ += static_cast<int64_t>(text.size());
}

Json LogprobList::Take() {
  num_tokens_ = 0;
  return std::exchange(json_, Json());
}

Json ChoiceObject(const ResponseHead& head, int index, std::string text,
                  Json logprobs, absl::string_view finish_reason) {
  Json choice = {{"index", index}};
  if (head.chat) {
    choice["message"] = {{"role", "assistant"}, {"content", std::move(text)}};
  } else {
    choice["text"] = std::move(text);
  }
  choice["logprobs"] = std::move(logprobs);
  choice["finish_reason"] = ReasonJson(finish_reason);
  return choice;
}

Json ResponseObject(const ResponseHead& head, Json choices,
                    const Usage& usage) {
  Json response = Head(head, /*chunk=*/false);
  response["choices"] = std::move(choices);
  response["usage"] = ToJson(usage);
  return response;
}

Json ChunkObject(const ResponseHead& head, int index, bool first,
                 std::string text, Json logprobs,
                 absl::string_view finish_reason) {
  Json choice = {{"index", index}};
  if (head.chat) {
    Json delta = Json::object();
    if (first) delta["role"] = "assistant";
    if (!text.empty()) delta["content"] = std::move(text);
    choice["delta"] = delta;
  } else {
    choice["text"] = std::move(text);
  }
  choice["logprobs"] = std::move(logprobs);
  choice["finish_reason"] = ReasonJson(finish_reason);
  Json chunk = Head(head, /*chunk=*/true);
  chunk["choices"] = Json::array({choice});
  return chunk;
}

Json UsageChunk(const ResponseHead& head, const Usage& usage) {
  Json chunk = Head(head, /*chunk=*/true);
  chunk["choices"] = Json::array();
  chunk["usage"] = ToJson(usage);
  return chunk;
}

std::string ServerSentEvent(const Json& object) {
  return absl::StrCat("data: ", object.dump(), "\n\n");
}

}  // namespace strata
