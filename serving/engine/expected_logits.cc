#include "serving/engine/expected_logits.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "core/base/status_macros.h"
#include "core/checkpoint/safetensors.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/model/config.pb.h"
#include "core/model/decoder.h"
#include "core/runtime/backend.h"
#include "core/runtime/program.h"
#include "core/runtime/state_store.h"
#include "core/tensor/dtype.h"
#include "core/tensor/shape.h"
#include "core/tensor/tensor.h"
#include "serving/engine/generator.h"

namespace strata {
namespace {

// Far beyond any fixture; keeps the sizes of a file of unknown origin small.
constexpr int64_t kMaxTokens = 1 << 20;

// Rows of token ids within the vocabulary.
struct Ids {
  int64_t rows = 0;
  int64_t columns = 0;
  std::vector<int32_t> ids;

  absl::Span<const int32_t> row(int64_t i) const {
    return absl::MakeConstSpan(ids).subspan(i * columns, columns);
  }
};

absl::StatusOr<Ids> ReadIds(const SafetensorsFile& file,
                            const std::string& name, int64_t vocab) {
  ASSIGN_OR_RETURN(const TensorView view, file.Find(name));
  const bool is_i64 = view.dtype == DType::kI64;
  if ((!is_i64 && view.dtype != DType::kI32) || view.rank() != 2 ||
      view.num_elements() < 1 || view.num_elements() > kMaxTokens) {
    return absl::InvalidArgumentError(absl::StrCat(
        file.path(), ": tensor \"", name, "\" is ", Name(view.dtype),
        ToString(view.shape), "; want I32 or I64, rows of token ids"));
  }
  Ids result;
  result.rows = view.dim(0);
  result.columns = view.dim(1);
  for (int64_t i = 0; i < view.num_elements(); ++i) {
    const int64_t id = is_i64 ? view.as<int64_t>()[i] : view.as<int32_t>()[i];
    if (id < 0 || id >= vocab) {
      return absl::InvalidArgumentError(
          absl::StrCat(file.path(), ": tensor \"", name, "\" holds the id ", id,
                       "; want 0 to ", vocab - 1));
    }
    result.ids.push_back(static_cast<int32_t>(id));
  }
  return result;
}

absl::Status CompareLogits(const ModelConfig& config,
                           const SafetensorsFile& file, Backend& backend,
                           StateStore& state, ExpectedResult& result) {
  ASSIGN_OR_RETURN(const Ids input,
                   ReadIds(file, "input_ids", config.vocab_size()));
  ASSIGN_OR_RETURN(const TensorView want, file.Find("logits"));
  const Shape shape = {input.rows, input.columns, config.vocab_size()};
  if (want.dtype != DType::kF32 || want.shape != shape) {
    return absl::InvalidArgumentError(
        absl::StrCat(file.path(), ": tensor \"logits\" is ", Name(want.dtype),
                     ToString(want.shape), "; want F32", ToString(shape)));
  }
  const int64_t t = input.columns;
  GraphBuilder builder;
  DecoderOptions options;
  options.mode = DecoderOptions::Mode::kLogits;
  options.max_tokens = options.max_logits = t;
  BuildDecoder(builder, config, options);
  ASSIGN_OR_RETURN(Graph graph, builder.Finish());
  ASSIGN_OR_RETURN(const std::unique_ptr<Program> program,
                   Program::Compile(std::move(graph), backend, state));
  double dot = 0, got_norm = 0, want_norm = 0;
  for (int64_t row = 0; row < input.rows; ++row) {
    const auto n = static_cast<int32_t>(t);
    *program->Input("num_tokens").as<int32_t>() = n;
    *program->Input("num_logits").as<int32_t>() = n;
    program->Input("seq_start").as<int32_t>()[0] = 0;
    program->Input("seq_start").as<int32_t>()[1] = n;
    for (int32_t i = 0; i < n; ++i) {
      program->Input("ids").as<int32_t>()[i] = input.row(row)[i];
      program->Input("position").as<int32_t>()[i] = i;
      program->Input("logit_row").as<int32_t>()[i] = i;
    }
    RETURN_IF_ERROR(program->Run());
    const TensorView got = program->Output("logits");
    const float* const y = want.as<float>() + row * got.num_elements();
    for (int64_t i = 0; i < got.num_elements(); ++i) {
      const double a = got.as<float>()[i], b = y[i];
      const double difference = std::abs(a - b);
      // A NaN stays.
      if (!(difference <= result.max_difference)) {
        result.max_difference = difference;
      }
      dot += a * b;
      got_norm += a * a;
      want_norm += b * b;
    }
    if (std::isnan(dot)) {
      result.max_difference = std::numeric_limits<double>::quiet_NaN();
      break;
    }
  }
  result.num_logits = input.rows * input.columns;
  result.cosine_difference = 1 - dot / std::sqrt(got_norm * want_norm);
  return absl::OkStatus();
}

absl::Status CompareGreedy(ModelConfig config, const SafetensorsFile& file,
                           Backend& backend, StateStore& state,
                           ExpectedResult& result) {
  if (file.tensors().count("prompt") == 0) return absl::OkStatus();
  ASSIGN_OR_RETURN(const Ids prompt,
                   ReadIds(file, "prompt", config.vocab_size()));
  ASSIGN_OR_RETURN(const Ids greedy,
                   ReadIds(file, "greedy", config.vocab_size()));
  if (greedy.rows != prompt.rows || greedy.columns <= prompt.columns) {
    return absl::InvalidArgumentError(
        absl::StrCat(file.path(), ": tensor \"greedy\" has ", greedy.rows,
                     " rows of ", greedy.columns, " tokens; want ", prompt.rows,
                     ", as \"prompt\", of ", "more than its ", prompt.columns));
  }
  // Other implementations go on beyond max_position_embeddings.
  config.set_max_seq_len(std::max(config.max_seq_len(), greedy.columns));
  ASSIGN_OR_RETURN(const std::unique_ptr<Generator> generator,
                   Generator::Create(config, backend, state));
  GenerateOptions options;
  options.max_new_tokens = greedy.columns - prompt.columns;
  options.sampling.temperature = 0;
  for (int64_t row = 0; row < prompt.rows; ++row) {
    ASSIGN_OR_RETURN(const std::vector<int32_t> tokens,
                     generator->Generate(prompt.row(row), options));
    const auto want = greedy.row(row);
    result.num_greedy += options.max_new_tokens;
    const auto start = want.subspan(0, prompt.columns);
    if (!std::equal(start.begin(), start.end(), prompt.row(row).begin())) {
      continue;
    }
    for (size_t i = 0; i < tokens.size(); ++i) {
      if (tokens[i] != want[prompt.columns + i]) break;
      ++result.num_greedy_equal;
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ExpectedResult> CompareWithExpected(const ModelConfig& config,
                                                   const std::string& path,
                                                   Backend& backend,
                                                   StateStore& state) {
  ASSIGN_OR_RETURN(const SafetensorsFile file, SafetensorsFile::Open(path));
  ExpectedResult result;
  RETURN_IF_ERROR(CompareLogits(config, file, backend, state, result));
  RETURN_IF_ERROR(CompareGreedy(config, file, backend, state, result));
  return result;
}

}  // namespace strata
