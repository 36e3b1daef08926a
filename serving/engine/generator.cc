#include "serving/engine/generator.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "core/base/check.h"
#include "core/base/status_macros.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/model/config.h"
#include "core/model/config.pb.h"
#include "core/model/decoder.h"
#include "core/model/rope_scaling.h"
#include "core/ops/absorbed_attention.h"
#include "core/ops/attention.h"
#include "core/ops/embedding.h"
#include "core/ops/grouped_matmul.h"
#include "core/ops/quant_matmul.h"
#include "core/passes/pack_caches.h"
#include "core/quant/cache_format.h"
#include "core/runtime/backend.h"
#include "core/runtime/fuse_for.h"
#include "core/runtime/program.h"
#include "core/runtime/state_store.h"
#include "core/tensor/tensor.h"
#include "serving/engine/sampler.h"

namespace strata {
namespace {

using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// The share of source `value` that `node`, of a program of one token, reads.
double ShareRead(const Graph& graph, const Node& node, ValueId value,
                 int64_t context) {
  const Dims& dims = graph.value(value).type.dims;
  if (dims.empty()) return 1;
  const auto all = static_cast<double>(dims[0].bound);
  if (node.op->name == kEmbedding.name) return 1 / all;
  if (node.op->name == kCachedAttention.name ||
      node.op->name == kCachedLatentAttention.name) {
    return static_cast<double>(context) / all;
  }
  if (node.op->name == kGroupedMatMul.name ||
      node.op->name == kQuantGroupedMatMul.name) {
    // Each of the rows, of which there are as many as experts a token may have,
    // goes to an expert of its own.
    const Dims& rows = graph.value(node.inputs[0]).type.dims;
    return std::min(1.0, static_cast<double>(rows[0].bound) / all);
  }
  return 1;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Generator>> Generator::Create(
    const ModelConfig& config, Backend& backend, StateStore& state, bool fuse,
    const CacheOptions& cache, int64_t prefill_tokens) {
  RETURN_IF_ERROR(strata::Validate(config));
  CHECK(prefill_tokens > 0);
  auto generator = std::unique_ptr<Generator>(
      new Generator(config, backend, state, fuse, cache, prefill_tokens));
  constexpr auto kGenerate = DecoderOptions::Mode::kGenerate;
  ASSIGN_OR_RETURN(generator->prefill_,
                   generator->Compile(kGenerate, generator->prefill_tokens_,
                                      /*max_logits=*/1));
  ASSIGN_OR_RETURN(
      generator->decode_,
      generator->Compile(kGenerate, /*max_tokens=*/1, /*max_logits=*/1));
  return generator;
}

absl::StatusOr<Graph> Generator::BuildGraph(DecoderOptions::Mode mode,
                                            int64_t max_tokens,
                                            int64_t max_logits) const {
  GraphBuilder builder;
  DecoderOptions options;
  options.mode = mode;
  options.max_tokens = max_tokens;
  options.max_logits = max_logits;
  BuildDecoder(builder, config_, options);
  return builder.Finish();
}

absl::StatusOr<std::unique_ptr<Program>> Generator::Compile(
    DecoderOptions::Mode mode, int64_t max_tokens, int64_t max_logits) const {
  ASSIGN_OR_RETURN(Graph graph, BuildGraph(mode, max_tokens, max_logits));
  ASSIGN_OR_RETURN(graph, PackCaches(graph, cache_));
  if (fuse_) graph = FuseFor(graph, backend_, state_);
  return Program::Compile(std::move(graph), backend_, state_);
}

absl::Status Generator::Check(absl::Span<const int32_t> prompt,
                              const GenerateOptions& options) const {
  RETURN_IF_ERROR(strata::Validate(options.sampling));
  if (options.max_new_tokens < 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "max_new_tokens is ", options.max_new_tokens, "; want at least 0"));
  }
  if (options.stop_token < -1 || options.stop_token >= config_.vocab_size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("stop_token is ", options.stop_token, "; want 0 to ",
                     config_.vocab_size() - 1, ", or -1 for none"));
  }
  if (options.speculative && config_.mtp().num_layers() == 0) {
    return absl::InvalidArgumentError(
        "speculative decoding wants a model with a multi-token prediction "
        "module, of which this has 0");
  }
  if (prompt.empty()) {
    return absl::InvalidArgumentError(
        "the prompt is empty; want at least 1 token");
  }
  const auto length = static_cast<int64_t>(prompt.size());
  if (length >= config_.max_seq_len()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the prompt has ", length, " tokens; want at most ",
        config_.max_seq_len() - 1, ", so that one more fits into max_seq_len"));
  }
  for (const int32_t token : options.given) {
    if (token < 0 || token >= config_.vocab_size()) {
      return absl::InvalidArgumentError(absl::StrCat("a given token is ", token,
                                                     "; want 0 to ",
                                                     config_.vocab_size() - 1));
    }
  }
  for (int64_t i = 0; i < length; ++i) {
    if (prompt[i] < 0 || prompt[i] >= config_.vocab_size()) {
      return absl::InvalidArgumentError(
          absl::StrCat("token ", i, " of the prompt is ", prompt[i],
                       "; want 0 to ", config_.vocab_size() - 1));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int32_t>> Generator::Generate(
    absl::Span<const int32_t> prompt, const GenerateOptions& options,
    const std::function<bool(int32_t)>& on_token) {
  RETURN_IF_ERROR(Check(prompt, options));
  const auto prompt_length = static_cast<int64_t>(prompt.size());
  const int64_t max_new_tokens =
      std::min(options.max_new_tokens, config_.max_seq_len() - prompt_length);
  stats_ = GenerateStats();
  stats_.prompt_tokens = prompt_length;

  std::vector<int32_t> tokens;
  tokens.reserve(max_new_tokens);
  // Takes a token; whether to go on.
  const Emit emit = [&](int32_t token) {
    if (stats_.new_tokens == max_new_tokens || token == options.stop_token) {
      return false;
    }
    tokens.push_back(token);
    ++stats_.new_tokens;
    return on_token == nullptr || on_token(token);
  };
  if (options.speculative) {
    RETURN_IF_ERROR(
        GenerateSpeculatively(prompt, options.sampling, max_new_tokens, emit));
    return tokens;
  }

  Clock::time_point start = Clock::now();
  RETURN_IF_ERROR(Advance(prompt, /*position=*/0));
  stats_.prefill_seconds = SecondsSince(start);

  TokenSampler sampler(options.sampling);
  while (stats_.new_tokens < max_new_tokens) {
    start = Clock::now();
    if (!tokens.empty()) {
      RETURN_IF_ERROR(
          Advance({tokens.back()}, prompt_length + stats_.new_tokens - 1));
    }
    const auto drawn = static_cast<size_t>(stats_.new_tokens);
    const int32_t token = drawn < options.given.size() ? options.given[drawn]
                                                       : sampler.Draw(logits());
    stats_.decode_seconds += SecondsSince(start);
    if (!emit(token)) break;
  }
  return tokens;
}

absl::Status Generator::Advance(absl::Span<const int32_t> ids,
                                int64_t position) {
  while (!ids.empty()) {
    const auto chunk = ids.subspan(0, prefill_tokens_);
    ids.remove_prefix(chunk.size());
    RETURN_IF_ERROR(RunChunk(chunk.size() == 1 ? *decode_ : *prefill_, chunk,
                             position, /*num_logits=*/ids.empty() ? 1 : 0));
    position += static_cast<int64_t>(chunk.size());
  }
  return CheckLogits(position);
}

absl::Status Generator::CheckLogits(int64_t num_tokens) const {
  for (const float logit : logits()) {
    if (std::isfinite(logit)) continue;
    return absl::OutOfRangeError(
        absl::StrCat("a logit after ", num_tokens, " tokens is ", logit,
                     "; the weights are not those of a working model"));
  }
  return absl::OkStatus();
}

absl::Status Generator::RunChunk(Program& program,
                                 absl::Span<const int32_t> ids,
                                 int64_t position, int64_t num_logits) {
  const auto n = static_cast<int32_t>(ids.size());
  *program.Input("num_tokens").as<int32_t>() = n;
  int32_t* const id = program.Input("ids").as<int32_t>();
  int32_t* const at = program.Input("position").as<int32_t>();
  int32_t* const cache_row = program.Input("cache_row").as<int32_t>();
  int32_t* const first_row = program.Input("first_row").as<int32_t>();
  int32_t* const seq_len = HasDynamicRope(config_)
                               ? program.Input("seq_len").as<int32_t>()
                               : nullptr;
  for (int32_t i = 0; i < n; ++i) {
    id[i] = ids[i];
    // The one sequence begins at the cache's first row.
    at[i] = cache_row[i] = static_cast<int32_t>(position) + i;
    first_row[i] = 0;
    if (seq_len != nullptr) {
      seq_len[i] =
          std::max(static_cast<int32_t>(stats_.prompt_tokens), at[i] + 1);
    }
  }
  *program.Input("num_logits").as<int32_t>() = static_cast<int32_t>(num_logits);
  for (int64_t i = 0; i < num_logits; ++i) {
    program.Input("logit_row").as<int32_t>()[i] =
        static_cast<int32_t>(n - num_logits + i);
  }
  RETURN_IF_ERROR(program.Run());
  latest_ = &program;
  return absl::OkStatus();
}

absl::Span<const float> Generator::logits() const {
  if (latest_ == nullptr) return {};
  return latest_->Output("logits").span<float>();
}

double Generator::MinBytesPerToken(int64_t context) const {
  // By basic operators, which say what each reads of a source.
  const absl::StatusOr<Graph> built =
      BuildGraph(DecoderOptions::Mode::kGenerate, /*max_tokens=*/1,
                 /*max_logits=*/1);
  CHECK(built.ok()) << built.status();
  const Graph& graph = *built;
  absl::flat_hash_map<ValueId, double> share;  // By source: largest of a node.
  for (const Node& node : graph.nodes()) {
    for (const ValueId input : node.inputs) {
      if (input == kNone) continue;
      const Role role = graph.value(input).role;
      if (role != Role::kParameter && role != Role::kState) continue;
      if (node.op->name == kCacheWrite.name) continue;
      double& largest = share[input];
      largest = std::max(largest, ShareRead(graph, node, input, context));
    }
  }
  double bytes = 0;
  for (const auto& [value, part] : share) {
    // As stored, which may be in BF16.
    bytes += part * static_cast<double>(
                        state_.Peek(graph.value(value).name).num_bytes());
  }
  // What the token writes: its rows of the caches.
  for (const Node& node : graph.nodes()) {
    if (node.op->name != kCacheWrite.name) continue;
    const TensorView& cache = state_.Peek(graph.value(node.inputs[0]).name);
    bytes += static_cast<double>(cache.num_bytes()) /
             static_cast<double>(cache.dim(0));
  }
  return bytes;
}

}  // namespace strata
