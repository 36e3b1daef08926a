#include "core/quant/input_moments.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/base/status_macros.h"
#include "core/base/thread_pool.h"
#include "core/cpu/gemm.h"
#include "core/graph/graph.h"
#include "core/model/config.pb.h"
#include "core/quant/calibrate.h"
#include "core/quant/input_taps.h"
#include "core/runtime/backend.h"
#include "core/runtime/program.h"
#include "core/runtime/state_store.h"

namespace strata {
namespace {

// Columns of a sum that one thread makes at a time.
constexpr int64_t kColumnsOfPart = 256;

// Columns of x x^T from `first` on, down to the diagonal.
struct Part {
  InputMoments* moments = nullptr;
  const float* x = nullptr;  // [rows, columns]
  int64_t rows = 0;
  int64_t first = 0;
};

// Adds to a part, and what lies beyond the diagonal in its last rows.
void Add(const Part& part) {
  const int64_t columns = part.moments->columns;
  const int64_t n = std::min(kColumnsOfPart, columns - part.first);
  GemmArgs<float> g;
  g.transpose_a = true;
  g.m = part.first + n;
  g.n = n;
  g.k = part.rows;
  g.a = part.x;
  g.b = part.x + part.first;
  g.lda = g.ldb = g.ldc = columns;
  g.beta = 1;
  g.c = part.moments->sum.data() + part.first;
  Gemm(g);
}

// What lies below the diagonal is what lies above it.
void Mirror(InputMoments& moments) {
  const int64_t columns = moments.columns;
  for (int64_t i = 0; i < columns; ++i) {
    for (int64_t j = i + 1; j < columns; ++j) {
      moments.sum[j * columns + i] = moments.sum[i * columns + j];
    }
  }
}

void Add(const InputMoments& from, InputMoments& to) {
  to.count += from.count;
  for (size_t i = 0; i < to.sum.size(); ++i) to.sum[i] += from.sum[i];
}

}  // namespace

absl::Status ForInputs(const ModelConfig& config,
                       const std::set<std::string>& names,
                       const std::vector<TokenBatch>& batches, Backend& backend,
                       StateStore& state, SeeInputs see) {
  ASSIGN_OR_RETURN(Graph graph, EvaluationOf(config, batches));
  const std::vector<InputTap> taps = AddTaps(names, graph);
  ASSIGN_OR_RETURN(const std::unique_ptr<Program> program,
                   Program::Compile(std::move(graph), backend, state));
  for (const TokenBatch& batch : batches) {
    FillBatch(batch, *program);
    RETURN_IF_ERROR(program->Run());
    RETURN_IF_ERROR(ShowTaps(taps, *program, see));
  }
  return absl::OkStatus();
}

absl::StatusOr<MomentsByName> MomentsOf(
    absl::FunctionRef<absl::Status(SeeInputs)> run, ThreadPool& pool) {
  // By the matrices that have them.
  std::map<std::vector<std::string>, std::vector<InputMoments>> shared;
  RETURN_IF_ERROR(
      run([&](const std::vector<std::string>& weights, int64_t columns,
              absl::Span<const float> x, absl::Span<const int32_t> offset) {
        std::vector<InputMoments>& of_weights = shared[weights];
        const size_t experts = offset.empty() ? 1 : offset.size() - 1;
        of_weights.resize(experts);
        std::vector<Part> parts;
        for (size_t e = 0; e < experts; ++e) {
          InputMoments& of_expert = of_weights[e];
          if (of_expert.sum.empty()) {
            of_expert.columns = columns;
            of_expert.sum.resize(columns * columns);
          }
          const int64_t first = offset.empty() ? 0 : offset[e];
          const int64_t end = offset.empty()
                                  ? static_cast<int64_t>(x.size()) / columns
                                  : offset[e + 1];
          if (first == end) continue;
          of_expert.count += end - first;
          for (int64_t at = 0; at < columns; at += kColumnsOfPart) {
            parts.push_back(
                {&of_expert, x.data() + first * columns, end - first, at});
          }
        }
        // The longest first.
        std::stable_sort(parts.begin(), parts.end(),
                         [](const Part& a, const Part& b) {
                           return a.rows * (a.first + kColumnsOfPart) >
                                  b.rows * (b.first + kColumnsOfPart);
                         });
        pool.ParallelFor(static_cast<int64_t>(parts.size()),
                         [&](int64_t i) { Add(parts[i]); });
        return absl::OkStatus();
      }));
  MomentsByName moments;
  for (auto& [weights, of_weights] : shared) {
    pool.ParallelFor(static_cast<int64_t>(of_weights.size()),
                     [&](int64_t e) { Mirror(of_weights[e]); });
    for (const std::string& name : weights) {
      const auto [at, is_new] = moments.insert({name, of_weights});
      if (is_new) continue;  // Else there are several products by it.
      for (size_t e = 0; e < of_weights.size(); ++e) {
        Add(of_weights[e], at->second[e]);
      }
    }
  }
  return moments;
}

absl::StatusOr<MomentsByName> CollectMoments(
    const ModelConfig& config, const std::set<std::string>& names,
    const std::vector<TokenBatch>& batches, Backend& backend, StateStore& state,
    ThreadPool& pool) {
  return MomentsOf(
      [&](SeeInputs see) {
        return ForInputs(config, names, batches, backend, state, see);
      },
      pool);
}

InputMoments SumOf(const std::vector<InputMoments>& moments) {
  InputMoments sum = moments[0];
  for (size_t e = 1; e < moments.size(); ++e) Add(moments[e], sum);
  return sum;
}

}  // namespace strata
