#include "core/quant/input_taps.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "core/base/status_macros.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/model/config.pb.h"
#include "core/model/decoder.h"
#include "core/ops/grouped_matmul.h"
#include "core/ops/matmul.h"
#include "core/runtime/program.h"
#include "core/tensor/tensor.h"

namespace strata {

absl::StatusOr<Graph> EvaluationOf(const ModelConfig& config,
                                   const std::vector<TokenBatch>& batches) {
  if (batches.empty()) {
    return absl::InvalidArgumentError(
        "there is no calibration data; want at least one batch");
  }
  GraphBuilder builder;
  DecoderOptions options;
  options.mode = DecoderOptions::Mode::kEvaluate;
  for (const TokenBatch& batch : batches) {
    const auto tokens = static_cast<int64_t>(batch.ids.size());
    options.max_tokens = std::max(options.max_tokens, tokens);
    options.max_sequences =
        std::max(options.max_sequences, tokens / batch.seq_len);
  }
  BuildDecoder(builder, config, options);
  return builder.Finish();
}

const Value* MultipliedBy(const Graph& graph, const Node& node) {
  if (node.op->name != kMatMul.name && node.op->name != kGroupedMatMul.name) {
    return nullptr;
  }
  const Value& weight = graph.value(node.inputs[1]);
  return weight.role == Role::kParameter ? &weight : nullptr;
}

std::vector<InputTap> AddTaps(const std::set<std::string>& names,
                              Graph& graph) {
  std::vector<InputTap> taps;
  // By x and where experts' rows begin.
  std::map<std::pair<ValueId, ValueId>, size_t> known;
  for (const Node& node : graph.nodes()) {
    const Value* const weight = MultipliedBy(graph, node);
    if (weight == nullptr || names.count(weight->name) == 0) continue;
    const bool dense = node.op->name == kMatMul.name;
    const ValueId x = node.inputs[0], offset = dense ? kNone : node.inputs[2];
    const auto [at, is_new] = known.insert({{x, offset}, taps.size()});
    if (is_new) {
      InputTap tap;
      tap.x = absl::StrCat("input.", taps.size());
      graph.SetOutput(tap.x, x);
      if (!dense) {
        tap.offset = absl::StrCat("offset.", taps.size());
        graph.SetOutput(tap.offset, offset);
      }
      taps.push_back(std::move(tap));
    }
    taps[at->second].weights.push_back(weight->name);
  }
  return taps;
}

void FillBatch(const TokenBatch& batch, Program& program) {
  const auto n = static_cast<int64_t>(batch.ids.size());
  const auto fill = [&](const char* name, const std::vector<int32_t>& from) {
    if (!program.HasInput(name)) return;
    std::copy(from.begin(), from.end(), program.Input(name).as<int32_t>());
  };
  fill("num_tokens", {static_cast<int32_t>(n)});
  fill("ids", batch.ids);
  fill("target", batch.targets);
  std::vector<int32_t> position(n);
  for (int64_t i = 0; i < n; ++i) {
    position[i] = static_cast<int32_t>(i % batch.seq_len);
  }
  fill("position", position);
  if (!program.HasInput("seq_start")) return;
  std::vector<int32_t> start(program.Input("seq_start").dim(0));
  for (size_t i = 0; i < start.size(); ++i) {  // Those behind the last: empty.
    start[i] = static_cast<int32_t>(
        std::min(n, static_cast<int64_t>(i) * batch.seq_len));
  }
  fill("seq_start", start);
}

absl::Status ShowTaps(const std::vector<InputTap>& taps, const Program& program,
                      SeeInputs see) {
  for (const InputTap& tap : taps) {
    const TensorView x = program.Output(tap.x);
    absl::Span<const int32_t> offset;
    if (!tap.offset.empty()) {
      offset = program.Output(tap.offset).span<int32_t>();
    }
    RETURN_IF_ERROR(see(tap.weights, x.dim(1), x.span<float>(), offset));
  }
  return absl::OkStatus();
}

}  // namespace strata
