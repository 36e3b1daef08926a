// The answer to one API request, from the engine's tokens to JSON.
//
//   ASSIGN_OR_RETURN(auto answer, Answer::Start(request, ...));
//   answer->Whole(client_left)                     one object, or
//   while (!(piece = answer->Next(wait)).done)     server-sent events

#ifndef SERVING_API_ANSWER_H_
#define SERVING_API_ANSWER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "nlohmann/json.hpp"
#include "serving/api/answer_text.h"
#include "serving/api/api_request.h"
#include "serving/api/api_response.h"
#include "serving/api/server_metrics.h"
#include "serving/api/text_codec.h"
#include "serving/engine/engine.h"

namespace strata {

// Choices of several prompts have indexes one after another. One thread at a
// time.
class Answer {
 public:
  // Submits the request's prompts. `codec` and `metrics` must outlive it.
  //
  // Returns the errors of Engine::Submit; then nothing of it runs.
  static absl::StatusOr<std::unique_ptr<Answer>> Start(ApiRequest request,
                                                       ResponseHead head,
                                                       const TextCodec& codec,
                                                       Engine& engine,
                                                       ServerMetrics& metrics);
  // Cancels what has not ended.
  ~Answer();

  // Waits for the end, asking now and then whether the client has left.
  //
  // Returns CANCELLED if it has or the server ends, DEADLINE_EXCEEDED if time
  // ran out, the engine's error if it failed.
  absl::StatusOr<nlohmann::ordered_json> Whole(
      const std::function<bool()>& client_left);

  // The next events of a stream, as far as they came within `wait`; an error
  // is an event too. After `done` there are no more.
  struct Piece {
    std::string text;
    bool done = false;
  };
  Piece Next(absl::Duration wait);

  const Usage& usage() const { return usage_; }

 private:
  struct Choice {
    std::unique_ptr<AnswerText> text;
    std::unique_ptr<LogprobList> logprobs;
    std::string whole;  // If not streamed.
    bool first = true;  // No event of it was sent yet.
    bool closed = false;
    std::string finish_reason;
    absl::Time last_token = absl::InfinitePast();
  };

  Answer(ApiRequest request, ResponseHead head, const TextCodec& codec,
         ServerMetrics& metrics);

  // The next event of the generation that is being read; takes it in. What it
  // adds to a stream is appended to `out`. False if none came until `until`.
  absl::StatusOr<bool> Read(absl::Time until, std::string& out);
  void TakeToken(Choice& choice, const EngineEvent& event, std::string& out);
  absl::Status TakeEnd(Choice& choice, const EngineEvent& event,
                       std::string& out);
  // Gives out text of a choice, with its end if finish_reason is set.
  void Emit(Choice& choice, std::string text, std::string& out);
  bool AllRead() const { return current_ == generations_.size(); }
  void ObserveEnd();

  const ApiRequest request_;
  const ResponseHead head_;
  const TextCodec& codec_;
  ServerMetrics& metrics_;
  const absl::Time start_;
  std::vector<std::shared_ptr<Generation>> generations_;  // By prompt.
  std::vector<Choice> choices_;                           // [prompts * n]
  size_t current_ = 0;  // Of generations_, read one after another.
  Usage usage_;
};

}  // namespace strata

#endif  // SERVING_API_ANSWER_H_
