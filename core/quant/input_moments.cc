#include "core/quant/input_moments.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "core/base/status_macros.h"
#include "core/cpu/gemm.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/model/config.pb.h"
#include "core/model/decoder.h"
#include "core/ops/grouped_matmul.h"
#include "core/ops/matmul.h"
#include "core/quant/calibrate.h"
#include "core/runtime/backend.h"
#include "core/runtime/program.h"
#include "core/runtime/state_store.h"
#include "core/tensor/tensor.h"

namespace strata {
namespace {

// A product to be looked at, and what its operands are called among outputs.
struct Tap {
  std::string weight;
  std::string x;
  std::string offset;  // "": dense.
};

// Makes the inputs of products by `names` outputs of `graph`.
std::vector<Tap> AddTaps(const std::set<std::string>& names, Graph& graph) {
  std::vector<Tap> taps;
  for (const Node& node : graph.nodes()) {
    const bool dense = node.op->name == kMatMul.name;
    if (!dense && node.op->name != kGroupedMatMul.name) continue;
    const Value& weight = graph.value(node.inputs[1]);
    if (weight.role != Role::kParameter || names.count(weight.name) == 0) {
      continue;
    }
    Tap tap = {weight.name, absl::StrCat("input.", taps.size()),
               dense ? "" : absl::StrCat("offset.", taps.size())};
    graph.SetOutput(tap.x, node.inputs[0]);
    if (!dense) graph.SetOutput(tap.offset, node.inputs[2]);
    taps.push_back(std::move(tap));
  }
  return taps;
}

void Fill(const TokenBatch& batch, Program& program) {
  const auto n = static_cast<int64_t>(batch.ids.size());
  *program.Input("num_tokens").as<int32_t>() = static_cast<int32_t>(n);
  std::copy(batch.ids.begin(), batch.ids.end(),
            program.Input("ids").as<int32_t>());
  std::copy(batch.targets.begin(), batch.targets.end(),
            program.Input("target").as<int32_t>());
  int32_t* const position = program.Input("position").as<int32_t>();
  for (int64_t i = 0; i < n; ++i) {
    position[i] = static_cast<int32_t>(i % batch.seq_len);
  }
  int32_t* const start = program.Input("seq_start").as<int32_t>();
  const int64_t starts = program.Input("seq_start").dim(0);
  for (int64_t i = 0; i < starts; ++i) {  // Those behind the last are empty.
    start[i] = static_cast<int32_t>(std::min(n, i * batch.seq_len));
  }
}

// Adds x [rows, columns] to the moments.
void Accumulate(const float* x, int64_t rows, int64_t columns,
                InputMoments& moments) {
  if (moments.sum.empty()) {
    moments.columns = columns;
    moments.sum.resize(columns * columns);
  }
  if (rows == 0) return;
  moments.count += rows;
  GemmArgs<float> g;
  g.transpose_a = true;
  g.m = g.n = columns;
  g.k = rows;
  g.a = g.b = x;
  g.lda = g.ldb = g.ldc = columns;
  g.beta = 1;
  g.c = moments.sum.data();
  Gemm(g);
}

}  // namespace

absl::Status ForInputs(const ModelConfig& config,
                       const std::set<std::string>& names,
                       const std::vector<TokenBatch>& batches, Backend& backend,
                       StateStore& state, SeeInputs see) {
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
  ASSIGN_OR_RETURN(Graph graph, builder.Finish());
  const std::vector<Tap> taps = AddTaps(names, graph);
  ASSIGN_OR_RETURN(const std::unique_ptr<Program> program,
                   Program::Compile(std::move(graph), backend, state));
  for (const TokenBatch& batch : batches) {
    Fill(batch, *program);
    RETURN_IF_ERROR(program->Run());
    for (const Tap& tap : taps) {
      const TensorView x = program->Output(tap.x);
      absl::Span<const int32_t> offset;
      if (!tap.offset.empty()) {
        offset = program->Output(tap.offset).span<int32_t>();
      }
      RETURN_IF_ERROR(see(tap.weight, x.dim(1), x.span<float>(), offset));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<MomentsByName> CollectMoments(
    const ModelConfig& config, const std::set<std::string>& names,
    const std::vector<TokenBatch>& batches, Backend& backend,
    StateStore& state) {
  MomentsByName moments;
  RETURN_IF_ERROR(ForInputs(
      config, names, batches, backend, state,
      [&](const std::string& weight, int64_t columns, absl::Span<const float> x,
          absl::Span<const int32_t> offset) {
        std::vector<InputMoments>& of_weight = moments[weight];
        const size_t experts = offset.empty() ? 1 : offset.size() - 1;
        of_weight.resize(experts);
        for (size_t e = 0; e < experts; ++e) {
          const int64_t first = offset.empty() ? 0 : offset[e];
          const int64_t end = offset.empty()
                                  ? static_cast<int64_t>(x.size()) / columns
                                  : offset[e + 1];
          Accumulate(x.data() + first * columns, end - first, columns,
                     of_weight[e]);
        }
        return absl::OkStatus();
      }));
  return moments;
}

InputMoments SumOf(const std::vector<InputMoments>& moments) {
  InputMoments sum = moments[0];
  for (size_t e = 1; e < moments.size(); ++e) {
    sum.count += moments[e].count;
    for (size_t i = 0; i < sum.sum.size(); ++i) {
      sum.sum[i] += moments[e].sum[i];
    }
  }
  return sum;
}

}  // namespace strata
