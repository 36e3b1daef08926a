// What the API answers with: OpenAI's objects as JSON.

#ifndef SERVING_API_API_RESPONSE_H_
#define SERVING_API_API_RESPONSE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"
#include "serving/api/text_codec.h"
#include "serving/engine/engine.h"

namespace strata {

// The HTTP status of an error: 400, 401, 404, 408, 413, 429, 500, 503.
int HttpStatus(const absl::Status& status);

// {"error": {"message", "type", "param", "code"}} of an HTTP status.
nlohmann::ordered_json ErrorObject(int http_status, absl::string_view message);

struct Usage {
  int64_t prompt_tokens = 0;
  int64_t completion_tokens = 0;
};
nlohmann::ordered_json ToJson(const Usage& usage);

// Log-probabilities of some tokens of an answer, in the form of the endpoint.
// `text_offset`: characters (bytes) of the answer before them.
class LogprobList {
 public:
  explicit LogprobList(bool chat) : chat_(chat) {}
  // `logprobs` as an EngineEvent has them.
  void Add(const std::vector<TokenLogprob>& logprobs, const TextCodec& codec);
  // And forgets them.
  nlohmann::ordered_json Take();
  bool empty() const { return num_tokens_ == 0; }

 private:
  const bool chat_;
  int64_t num_tokens_ = 0;
  int64_t offset_ = 0;
  nlohmann::ordered_json json_;
};

// What is the same in all objects of one answer.
struct ResponseHead {
  bool chat = false;
  std::string id;
  int64_t created = 0;  // Unix seconds.
  std::string model;
  std::string version;  // Of the model; empty: not told.
};

// One choice of a whole answer. `finish_reason` is "stop" or "length".
nlohmann::ordered_json ChoiceObject(const ResponseHead& head, int index,
                                    std::string text,
                                    nlohmann::ordered_json logprobs,
                                    absl::string_view finish_reason);
nlohmann::ordered_json ResponseObject(const ResponseHead& head,
                                      nlohmann::ordered_json choices,
                                      const Usage& usage);

// One event of a stream: a piece of text, or with `finish_reason` (else empty)
// the end of a choice. `first`: of its choice.
nlohmann::ordered_json ChunkObject(const ResponseHead& head, int index,
                                   bool first, std::string text,
                                   nlohmann::ordered_json logprobs,
                                   absl::string_view finish_reason);
// The last event, if usage was asked for.
nlohmann::ordered_json UsageChunk(const ResponseHead& head, const Usage& usage);

// "data: ...\n\n"
std::string ServerSentEvent(const nlohmann::ordered_json& object);

}  // namespace strata

#endif  // SERVING_API_API_RESPONSE_H_
