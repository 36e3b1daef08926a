#include "serving/api/answer.h"

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "core/base/status_macros.h"
#include "nlohmann/json.hpp"
#include "serving/api/answer_text.h"
#include "serving/api/api_response.h"

namespace strata {
namespace {

using Json = nlohmann::ordered_json;

// How often a client that waits is looked after.
constexpr absl::Duration kLook = absl::Milliseconds(50);
constexpr char kDone[] = "data: [DONE]\n\n";

}  // namespace

Answer::Answer(ApiRequest request, ResponseHead head, const TextCodec& codec,
               ServerMetrics& metrics)
    : request_(std::move(request)),
      head_(std::move(head)),
      codec_(codec),
      metrics_(metrics),
      start_(absl::Now()) {}

Answer::~Answer() {
  for (const auto& generation : generations_) generation->Cancel();
}

absl::StatusOr<std::unique_ptr<Answer>> Answer::Start(ApiRequest request,
                                                      ResponseHead head,
                                                      const TextCodec& codec,
                                                      Engine& engine,
                                                      ServerMetrics& metrics) {
  auto answer = std::unique_ptr<Answer>(
      new Answer(std::move(request), std::move(head), codec, metrics));
  const ApiRequest& r = answer->request_;
  for (const std::vector<int32_t>& prompt : r.prompts) {
    EngineRequest one = r.engine;
    one.prompt = prompt;
    ASSIGN_OR_RETURN(std::shared_ptr<Generation> generation,
                     engine.Submit(std::move(one)));
    answer->generations_.push_back(std::move(generation));
    answer->usage_.prompt_tokens += static_cast<int64_t>(prompt.size());
    for (int i = 0; i < r.engine.num_choices; ++i) {
      Choice choice;
      choice.text = std::make_unique<AnswerText>(codec.NewText(prompt), r.stop);
      choice.logprobs = std::make_unique<LogprobList>(r.chat);
      answer->choices_.push_back(std::move(choice));
    }
  }
  return answer;
}

void Answer::Emit(Choice& choice, std::string text, std::string& out) {
  const auto index = static_cast<int>(&choice - choices_.data());
  if (choice.first && request_.echo) {
    text = request_.prompt_texts[index / request_.engine.num_choices] + text;
  }
  if (!request_.stream) {
    choice.first = false;
    choice.whole += text;
    return;
  }
  if (text.empty() && choice.logprobs->empty() &&
      choice.finish_reason.empty()) {
    return;
  }
  out += ServerSentEvent(ChunkObject(head_, index, choice.first,
                                     std::move(text), choice.logprobs->Take(),
                                     choice.finish_reason));
  choice.first = false;
}

void Answer::TakeToken(Choice& choice, const EngineEvent& event,
                       std::string& out) {
  const absl::Time now = absl::Now();
  if (choice.last_token == absl::InfinitePast()) {
    metrics_.ObserveFirstToken(now - start_);
  } else {
    metrics_.ObserveInterToken(now - choice.last_token);
  }
  choice.last_token = now;
  ++usage_.completion_tokens;
  if (!event.logprobs.empty()) choice.logprobs->Add(event.logprobs, codec_);
  std::string text = choice.text->Push(event.token);
  if (choice.text->stopped()) {
    generations_[current_]->Stop(event.choice);
    choice.closed = true;
    choice.finish_reason = "stop";
  }
  Emit(choice, std::move(text), out);
}

absl::Status Answer::TakeEnd(Choice& choice, const EngineEvent& event,
                             std::string& out) {
  switch (event.reason) {
    case FinishReason::kStop:
    case FinishReason::kLength:
      break;
    case FinishReason::kCancelled:
      return absl::CancelledError("the server is shutting down");
    case FinishReason::kTimedOut:
      return absl::DeadlineExceededError(
          "the request took longer than its timeout");
    case FinishReason::kFailed:
      return event.error;
  }
  std::string text = choice.text->Finish();
  const bool stopped =
      event.reason == FinishReason::kStop || choice.text->stopped();
  choice.closed = true;
  choice.finish_reason = stopped ? "stop" : "length";
  Emit(choice, std::move(text), out);
  return absl::OkStatus();
}

absl::StatusOr<bool> Answer::Read(absl::Time until, std::string& out) {
  Generation& generation = *generations_[current_];
  const std::optional<EngineEvent> event = generation.Next(until);
  if (event.has_value()) {
    Choice& choice =
        choices_[current_ * request_.engine.num_choices + event->choice];
    if (!choice.closed) {
      if (event->has_token) TakeToken(choice, *event, out);
      if (event->finished) RETURN_IF_ERROR(TakeEnd(choice, *event, out));
    }
  }
  if (generation.done()) {
    if (++current_ == generations_.size()) ObserveEnd();
    return true;
  }
  return event.has_value();
}

void Answer::ObserveEnd() {
  metrics_.ObserveRequest(absl::Now() - start_, usage_.prompt_tokens,
                          usage_.completion_tokens);
}

absl::StatusOr<Json> Answer::Whole(const std::function<bool()>& client_left) {
  std::string no_stream;
  absl::Time next_look = absl::Now() + kLook;
  while (!AllRead()) {
    RETURN_IF_ERROR(Read(next_look, no_stream).status());
    if (absl::Now() < next_look) continue;
    if (client_left()) return absl::CancelledError("the client has left");
    next_look = absl::Now() + kLook;
  }
  Json choices = Json::array();
  for (Choice& choice : choices_) {
    choices.push_back(ChoiceObject(
        head_, static_cast<int>(choices.size()), std::move(choice.whole),
        choice.logprobs->Take(), choice.finish_reason));
  }
  return ResponseObject(head_, std::move(choices), usage_);
}

Answer::Piece Answer::Next(absl::Duration wait) {
  Piece piece;
  absl::Time until = absl::Now() + wait;
  while (!AllRead()) {
    const absl::StatusOr<bool> came = Read(until, piece.text);
    if (!came.ok()) {
      piece.text += ServerSentEvent(
          ErrorObject(HttpStatus(came.status()), came.status().message()));
      piece.text += kDone;
      piece.done = true;
      current_ = generations_.size();
      return piece;
    }
    if (!*came) return piece;
    until = absl::InfinitePast();  // What is there already goes along.
  }
  if (request_.include_usage) {
    piece.text += ServerSentEvent(UsageChunk(head_, usage_));
  }
  piece.text += kDone;
  piece.done = true;
  return piece;
}

}  // namespace strata
