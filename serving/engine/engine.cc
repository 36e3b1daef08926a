#include "serving/engine/engine.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "core/base/status_macros.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/model/config.h"
#include "core/model/config.pb.h"
#include "core/model/decoder.h"
#include "core/model/rope_scaling.h"
#include "core/passes/pack_caches.h"
#include "core/quant/cache_format.h"
#include "core/runtime/backend.h"
#include "core/runtime/fuse_for.h"
#include "core/runtime/program.h"
#include "core/runtime/state_store.h"
#include "core/tensor/tensor.h"
#include "serving/engine/block_copier.h"
#include "serving/engine/request_sampler.h"
#include "serving/engine/scheduler.h"

namespace strata {
namespace {

// Bytes of the caches of all layers for one token.
int64_t CacheBytesPerToken(const ModelConfig& config, CacheFormat format) {
  const AttentionConfig& a = config.attention();
  const int64_t heads = a.has_latent() ? 1 : 2 * a.num_kv_heads();
  const int64_t columns = a.has_latent()
                              ? a.latent().kv_rank() + a.latent().rope_dim()
                              : a.head_dim();
  return config.num_layers() * heads * CacheHeadBytes(format, columns);
}

double Seconds(absl::Time time) {
  return absl::ToDoubleSeconds(time - absl::UnixEpoch());
}

absl::Status WantAtLeast(absl::string_view name, int64_t value, int64_t min) {
  if (value >= min) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(name, " is ", value, "; want at least ", min));
}

}  // namespace

// --- Engine ---

// One answer to one request.
struct Engine::Choice : ScheduledSequence {
  Choice(std::shared_ptr<const EngineRequest> r, std::shared_ptr<Generation> g,
         int i)
      : request(std::move(r)),
        generation(std::move(g)),
        index(i),
        sampler(Sampling(*request, i), request->prompt) {}

  static RequestSampling Sampling(const EngineRequest& request, int index) {
    RequestSampling sampling = request.sampling;
    sampling.draw.seed += index;
    return sampling;
  }

  std::shared_ptr<const EngineRequest> request;
  std::shared_ptr<Generation> generation;
  int index;
  RequestSampler sampler;
  int64_t num_new = 0;
  bool scheduled = false;  // The scheduler knows it.
  // Other choices of the request, which wait for this one's prompt.
  std::vector<Choice*> siblings;
};

absl::StatusOr<std::unique_ptr<Engine>> Engine::Create(
    const ModelConfig& config, Backend& backend, StateStore& state,
    const EngineOptions& options) {
  RETURN_IF_ERROR(Validate(config));
  if (config.moe().flat().choice() == FlatRouterConfig::EXPERT_CHOICE) {
    return absl::UnimplementedError(
        "the model's experts choose among the tokens of a batch, so an answer "
        "would depend on other requests");
  }
  RETURN_IF_ERROR(WantAtLeast("max_sequences", options.max_sequences, 1));
  RETURN_IF_ERROR(WantAtLeast("max_step_tokens", options.max_step_tokens,
                              options.max_sequences));
  RETURN_IF_ERROR(WantAtLeast("block_size", options.block_size, 1));
  RETURN_IF_ERROR(CheckCacheOptions(options.cache));
  SchedulerOptions scheduling;
  scheduling.max_sequences = options.max_sequences;
  scheduling.max_step_tokens = options.max_step_tokens;
  scheduling.block_size = options.block_size;
  scheduling.num_blocks = options.num_blocks;
  scheduling.pause_decoding = true;
  if (options.num_blocks == 0) {
    const int64_t of_sequence =
        (config.max_seq_len() + options.block_size - 1) / options.block_size;
    scheduling.num_blocks =
        std::min(options.max_sequences * of_sequence,
                 options.cache_bytes /
                     (CacheBytesPerToken(config, options.cache.format) *
                      options.block_size));
  }
  RETURN_IF_ERROR(
      WantAtLeast("the number of cache blocks", scheduling.num_blocks, 1));
  auto engine = std::unique_ptr<Engine>(
      new Engine(config, backend, state, options, scheduling));
  RETURN_IF_ERROR(engine->Compile());
  engine->UpdateStats(0);
  engine->thread_ = std::thread([e = engine.get()] { e->Loop(); });
  return engine;
}

Engine::Engine(const ModelConfig& config, Backend& backend, StateStore& state,
               const EngineOptions& options, const SchedulerOptions& scheduling)
    : config_(config),
      backend_(backend),
      state_(state),
      options_(options),
      scheduler_(scheduling) {}

absl::Status Engine::Compile() {
  GraphBuilder builder;
  DecoderOptions options;
  options.mode = DecoderOptions::Mode::kGenerate;
  options.max_tokens = options_.max_step_tokens;
  options.max_sequences = options_.max_sequences;
  options.max_logits = options_.max_sequences;
  options.cache_blocks = scheduler_.cache().num_blocks();
  options.block_size = options_.block_size;
  const Decoder decoder = BuildDecoder(builder, config_, options);
  ASSIGN_OR_RETURN(Graph graph, builder.Finish());
  for (const RouterValues& router : decoder.routers) {
    graph.SetOutput(router.OffsetName(), router.offset);
    graph.SetOutput(router.TokensName(), router.tokens);
    gate_outputs_.emplace_back(router.OffsetName(), router.TokensName());
    GateLoad gate;
    gate.layer = router.layer;
    gate.tier = router.tier;
    gate.rows.resize(router.num_experts);
    gates_.push_back(std::move(gate));
  }
  // What the logits are made of.
  const ValueId logits = graph.outputs().at("logits");
  const Node& head = graph.node(graph.value(logits).producer);
  graph.SetOutput("features", head.inputs[0]);
  ASSIGN_OR_RETURN(graph, PackCaches(graph, options_.cache));
  if (options_.fuse) graph = FuseFor(graph, backend_, state_);
  ASSIGN_OR_RETURN(program_,
                   Program::Compile(std::move(graph), backend_, state_));
  if (options_.profile) program_->EnableProfile();
  ASSIGN_OR_RETURN(
      copier_,
      BlockCopier::Create(backend_, state_, scheduler_.cache().num_blocks()));
  return absl::OkStatus();
}

Engine::~Engine() {
  {
    absl::MutexLock lock(&mutex_);
    draining_ = ending_ = true;
  }
  if (thread_.joinable()) thread_.join();
}

int64_t Engine::max_tokens() const {
  return std::min<int64_t>(
      config_.max_seq_len(),
      scheduler_.cache().num_blocks() * options_.block_size);
}

absl::Status Engine::Check(const EngineRequest& request) const {
  RETURN_IF_ERROR(Validate(request.sampling, config_.vocab_size()));
  if (request.prompt.empty()) {
    return absl::InvalidArgumentError(
        "the prompt is empty; want at least 1 token");
  }
  const auto length = static_cast<int64_t>(request.prompt.size());
  if (length >= max_tokens()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the prompt has ", length, " tokens; want at most ", max_tokens() - 1,
        ", so that one more fits into the context"));
  }
  for (int64_t i = 0; i < length; ++i) {
    if (request.prompt[i] >= 0 && request.prompt[i] < config_.vocab_size()) {
      continue;
    }
    return absl::InvalidArgumentError(
        absl::StrCat("token ", i, " of the prompt is ", request.prompt[i],
                     "; want 0 to ", config_.vocab_size() - 1));
  }
  RETURN_IF_ERROR(WantAtLeast("max_tokens", request.max_new_tokens, 0));
  if (request.num_choices < 1 || request.num_choices > options_.max_sequences) {
    return absl::InvalidArgumentError(absl::StrCat(
        "n is ", request.num_choices, "; want 1 to ", options_.max_sequences));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<Generation>> Engine::Submit(
    EngineRequest request) {
  RETURN_IF_ERROR(Check(request));
  const int n = request.num_choices;
  const auto length = static_cast<int64_t>(request.prompt.size());
  request.max_new_tokens =
      std::min(request.max_new_tokens, max_tokens() - length);
  const auto shared = std::make_shared<const EngineRequest>(std::move(request));
  const auto generation = std::shared_ptr<Generation>(new Generation(n));
  std::vector<std::unique_ptr<Choice>> choices;
  const double arrival = Seconds(absl::Now());
  for (int i = 0; i < n; ++i) {
    choices.push_back(std::make_unique<Choice>(shared, generation, i));
    choices.back()->tokens = shared->prompt;
    choices.back()->priority = shared->priority;
    choices.back()->arrival = arrival;
    // All of a longer prompt turns by the prompt's length.
    choices.back()->shares_prefix =
        !HasDynamicRope(config_) ||
        length <= config_.attention().rope_scaling().original_max_seq_len();
    if (i > 0) choices[0]->siblings.push_back(choices.back().get());
  }
  absl::MutexLock lock(&mutex_);
  if (draining_) {
    return absl::UnavailableError("the server is shutting down");
  }
  const int64_t waiting =
      stats_.num_waiting + static_cast<int64_t>(inbox_.size());
  if (waiting + n > options_.max_waiting) {
    return absl::ResourceExhaustedError(
        absl::StrCat(waiting, " requests wait already; the most is ",
                     options_.max_waiting, ". Try again later"));
  }
  num_unfinished_ += n;
  stats_.num_submitted += n;
  for (auto& choice : choices) inbox_.push_back(std::move(choice));
  return generation;
}

bool Engine::Drain(absl::Time until) {
  absl::MutexLock lock(&mutex_);
  draining_ = true;
  const auto empty = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return num_unfinished_ == 0;
  };
  if (mutex_.AwaitWithDeadline(absl::Condition(&empty), until)) return true;
  ending_ = true;
  mutex_.Await(absl::Condition(&empty));
  return false;
}

EngineStats Engine::stats() const {
  absl::MutexLock lock(&mutex_);
  return stats_;
}

std::vector<GateLoad> Engine::gate_loads() const {
  absl::MutexLock lock(&mutex_);
  return published_gates_;
}

void Engine::CountGates() {
  for (size_t i = 0; i < gates_.size(); ++i) {
    const auto& [offset_name, tokens_name] = gate_outputs_[i];
    const TensorView offset = program_->Output(offset_name);
    GateLoad& gate = gates_[i];
    gate.tokens += *program_->Output(tokens_name).as<int32_t>();
    for (size_t e = 0; e < gate.rows.size(); ++e) {
      gate.rows[e] += offset.as<int32_t>()[e + 1] - offset.as<int32_t>()[e];
    }
  }
}

bool Engine::TakeRequests() {
  std::vector<std::unique_ptr<Choice>> taken;
  bool ending = false;
  {
    absl::MutexLock lock(&mutex_);
    const auto work = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return ending_ || !inbox_.empty() || num_unfinished_ > 0;
    };
    mutex_.Await(absl::Condition(&work));
    taken.swap(inbox_);
    ending = ending_;
  }
  for (auto& choice : taken) {
    choice->id = next_id_++;
    if (choice->index == 0) {
      counts_.prompt_tokens +=
          static_cast<int64_t>(choice->request->prompt.size());
      scheduler_.Add(choice.get());
      choice->scheduled = true;
    }
    choices_.push_back(std::move(choice));
  }
  if (!ending) return true;
  while (!choices_.empty()) {
    Finish(choices_.back().get(), FinishReason::kCancelled, absl::OkStatus());
  }
  UpdateStats(0);
  return false;
}

void Engine::Sweep() {
  const absl::Time now = absl::Now();
  std::vector<Choice*> all;
  for (const auto& choice : choices_) all.push_back(choice.get());
  for (Choice* const choice : all) {
    const auto reason = choice->generation->ToEnd(choice->index);
    if (reason.has_value()) {
      Finish(choice, *reason, absl::OkStatus());
    } else if (choice->request->deadline <= now) {
      Finish(choice, FinishReason::kTimedOut, absl::OkStatus());
    } else if (choice->request->max_new_tokens == 0 &&
               !choice->request->features) {
      Finish(choice, FinishReason::kLength, absl::OkStatus());
    }
  }
}

void Engine::Loop() {
  while (TakeRequests()) {
    const absl::Time start = absl::Now();
    Sweep();
    if (!choices_.empty()) Step();
    UpdateStats(absl::ToDoubleSeconds(absl::Now() - start));
  }
}

void Engine::Step() {
  const absl::Time start = absl::Now();
  const Scheduler::Step step = scheduler_.Plan(Seconds(start));
  if (step.work.empty()) return;
  absl::Status status = copier_->Copy(step.copies);
  if (status.ok()) status = Forward(step);
  const double took = absl::ToDoubleSeconds(absl::Now() - start);
  counts_.forward_seconds += took;
  if (!status.ok()) {  // An error of ours or of the weights: nobody goes on.
    for (const Scheduler::Work& work : step.work) {
      Finish(static_cast<Choice*>(work.sequence), FinishReason::kFailed,
             status);
    }
    return;
  }
  scheduler_.Computed(step, took);
  CountGates();
  ++counts_.num_steps;
  counts_.computed_tokens += step.num_tokens;
  Draw(step);
}

absl::Status Engine::Forward(const Scheduler::Step& step) {
  int32_t* const id = program_->Input("ids").as<int32_t>();
  int32_t* const position = program_->Input("position").as<int32_t>();
  int32_t* const seq_len = HasDynamicRope(config_)
                               ? program_->Input("seq_len").as<int32_t>()
                               : nullptr;
  int32_t* const cache_row = program_->Input("cache_row").as<int32_t>();
  int32_t* const sequence = program_->Input("sequence").as<int32_t>();
  int32_t* const logit_row = program_->Input("logit_row").as<int32_t>();
  const TensorView& table = program_->Input("block_table");
  const int64_t max_blocks = table.dim(1);
  int32_t t = 0, num_logits = 0, row = 0;
  for (const Scheduler::Work& work : step.work) {
    const std::vector<int32_t>& blocks = work.sequence->cache.blocks;
    std::copy(blocks.begin(), blocks.end(),
              table.as<int32_t>() + row * max_blocks);
    const auto prompt_length = static_cast<int64_t>(
        static_cast<Choice*>(work.sequence)->request->prompt.size());
    for (int64_t i = work.first; i < work.first + work.count; ++i, ++t) {
      id[t] = work.sequence->tokens[i];
      position[t] = static_cast<int32_t>(i);
      if (seq_len != nullptr) {
        seq_len[t] = static_cast<int32_t>(std::max(prompt_length, i + 1));
      }
      cache_row[t] = static_cast<int32_t>(blocks[i / options_.block_size] *
                                              options_.block_size +
                                          i % options_.block_size);
      sequence[t] = row;
    }
    if (work.wants_logits()) logit_row[num_logits++] = t - 1;
    ++row;
  }
  *program_->Input("num_tokens").as<int32_t>() = t;
  *program_->Input("num_logits").as<int32_t>() = num_logits;
  return program_->Run();
}

void Engine::Draw(const Scheduler::Step& step) {
  const absl::Span<const float> all = program_->Output("logits").span<float>();
  const int64_t vocab = config_.vocab_size();
  // Who draws from which row of logits: siblings from that of the prompt.
  struct Due {
    Choice* choice;
    int64_t row;
    EngineEvent event;
  };
  std::vector<Due> due;
  int64_t row = 0;
  for (const Scheduler::Work& work : step.work) {
    if (!work.wants_logits()) continue;
    auto* const choice = static_cast<Choice*>(work.sequence);
    due.push_back({choice, row, {}});
    for (Choice* const sibling : choice->siblings) {
      if (scheduler_.Fork(*choice, sibling)) {
        due.push_back({sibling, row, {}});
      } else {
        scheduler_.Add(sibling);
      }
      sibling->scheduled = true;
    }
    choice->siblings.clear();
    ++row;
  }
  const auto draw = [&](int64_t i) {
    Due& d = due[i];
    d.event = DrawOne(*d.choice, d.row, all.subspan(d.row * vocab, vocab));
  };
  const auto count = static_cast<int64_t>(due.size());
  if (options_.pool != nullptr) {
    options_.pool->ParallelFor(count, draw);
  } else {
    for (int64_t i = 0; i < count; ++i) draw(i);
  }
  for (Due& d : due) Take(d.choice, std::move(d.event));
}

EngineEvent Engine::DrawOne(Choice& choice, int64_t row,
                            absl::Span<const float> logits) const {
  EngineEvent event;
  event.choice = choice.index;
  const auto bad = std::find_if_not(logits.begin(), logits.end(),
                                    [](float x) { return std::isfinite(x); });
  if (bad != logits.end()) {
    event.error = absl::OutOfRangeError(
        absl::StrCat("a logit after ", choice.tokens.size(), " tokens is ",
                     *bad, "; the weights are not those of a working model"));
    return event;
  }
  if (choice.request->features) {
    const int64_t d = config_.d_model();
    const auto features =
        program_->Output("features").span<float>().subspan(row * d, d);
    event.features.assign(features.begin(), features.end());
    event.logits.assign(logits.begin(), logits.end());
    return event;
  }
  event.token = choice.sampler.Draw(logits);
  if (event.token < 0) {
    event.error = absl::FailedPreconditionError(
        "no token of the model's continues what its constraint allows");
    return event;
  }
  event.has_token = true;
  if (choice.request->num_logprobs >= 0) {
    event.logprobs =
        Logprobs(logits, event.token, choice.request->num_logprobs);
  }
  return event;
}

void Engine::Take(Choice* choice, EngineEvent event) {
  if (!event.error.ok()) {
    Finish(choice, FinishReason::kFailed, event.error);
    return;
  }
  if (choice->request->features) {
    choice->generation->Push(std::move(event));
    Finish(choice, FinishReason::kStop, absl::OkStatus());
    return;
  }
  const std::vector<int32_t>& stop = choice->request->stop_ids;
  if (std::find(stop.begin(), stop.end(), event.token) != stop.end()) {
    Finish(choice, FinishReason::kStop, absl::OkStatus());
    return;
  }
  choice->tokens.push_back(event.token);
  ++counts_.generated_tokens;
  const bool full = ++choice->num_new == choice->request->max_new_tokens;
  choice->generation->Push(std::move(event));
  if (choice->sampler.ended()) {
    Finish(choice, FinishReason::kStop, absl::OkStatus());
  } else if (full) {
    Finish(choice, FinishReason::kLength, absl::OkStatus());
  }
}

void Engine::Finish(Choice* choice, FinishReason reason, absl::Status error) {
  // Siblings of a choice that ends before its prompt was through stand alone.
  if (!choice->siblings.empty()) {
    Choice* const heir = choice->siblings[0];
    heir->siblings.assign(choice->siblings.begin() + 1, choice->siblings.end());
    scheduler_.Add(heir);
    heir->scheduled = true;
  }
  for (const auto& other : choices_) {
    auto& siblings = other->siblings;
    siblings.erase(std::remove(siblings.begin(), siblings.end(), choice),
                   siblings.end());
  }
  if (choice->scheduled) scheduler_.Remove(choice);
  EngineEvent event;
  event.choice = choice->index;
  event.finished = true;
  event.reason = reason;
  event.error = std::move(error);
  ++counts_.num_finished[static_cast<int>(reason)];
  choice->generation->Push(std::move(event));
  choices_.erase(
      std::find_if(choices_.begin(), choices_.end(),
                   [&](const auto& c) { return c.get() == choice; }));
}

void Engine::UpdateStats(double step_seconds) {
  counts_.step_seconds += step_seconds;
  counts_.num_running = scheduler_.num_running();
  counts_.num_waiting =
      static_cast<int64_t>(choices_.size()) - counts_.num_running;
  const KvCache& cache = scheduler_.cache();
  counts_.num_blocks = cache.num_blocks();
  counts_.num_used_blocks = cache.num_blocks() - cache.num_free();
  counts_.num_kept_blocks = cache.num_kept();
  counts_.num_preemptions = scheduler_.num_preemptions();
  counts_.prefix_queried_tokens = cache.num_queried_tokens();
  counts_.prefix_found_tokens = cache.num_found_tokens();
  absl::MutexLock lock(&mutex_);
  const int64_t num_submitted = stats_.num_submitted;
  stats_ = counts_;
  stats_.num_submitted = num_submitted;
  published_gates_ = gates_;
  num_unfinished_ = static_cast<int64_t>(choices_.size() + inbox_.size());
}

}  // namespace strata
