// Norms and sums of the residual stream beside the operators that they stand
// for:
//
//   bazel run -c opt --config=cuda //cuda/ops/residual:residual_benchmark
//
// Rows of strata-1b. Of each, captured programs of one and of 1 + kCopies of
// the operators, each on rows of its own that lie in the device's memory; the
// time is the difference over kCopies, the middle of kTurns. Bytes are the
// least that the fused operator can move, of_copy their rate against
// CopyBandwidth(). What separate operators leave for each other may lie in the
// L2 cache, as in a step.

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/base/check.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/ops/dispatch.h"
#include "core/ops/elementwise.h"
#include "core/ops/fed_norm.h"
#include "core/ops/norm.h"
#include "core/runtime/program.h"
#include "core/runtime/state_store.h"
#include "core/tensor/bfloat16.h"
#include "core/tensor/dtype.h"
#include "core/tensor/tensor.h"
#include "cuda/ops/all_kernels.h"
#include "cuda/runtime/cuda_backend.h"
#include "cuda/testing/gpu_limits.h"

namespace strata::gpu {
namespace {

constexpr int kCopies = 3;
constexpr int kTurns = 31, kWarm = 5;
constexpr int64_t kWidth = 1024;
constexpr int64_t kTop = 4;  // Experts of a token.
constexpr double kEps = 1e-5;

using Clock = std::chrono::steady_clock;

// The operands of one copy.
class Operands {
 public:
  Operands(GraphBuilder& b, int64_t rows, int copy)
      : b_(b), rows_(rows), copy_(copy) {}

  ValueId Rows(const char* name) {
    return b_.Input(absl::StrCat(name, copy_), DType::kF32,
                    {Static(rows_), Static(kWidth)});
  }
  ValueId Scales(const char* name) {
    return b_.Input(absl::StrCat(name, copy_), DType::kF32, {Static(rows_)});
  }
  ValueId Gain(const char* name) {
    return b_.Parameter(absl::StrCat(name, copy_), {Static(kWidth)});
  }
  // Of experts, in BF16 (see Narrow), and where they are.
  std::vector<ValueId> ExpertRows() {
    const Dim slots = Static(rows_ * kTop);
    const Dims by_token = {Static(rows_), Static(kTop)};
    return {b_.Input(absl::StrCat("y", copy_), DType::kF32,
                     {slots, Static(kWidth)}),
            b_.Input(absl::StrCat("row_slot", copy_), DType::kI32, {slots}),
            b_.Input(absl::StrCat("slot_row", copy_), DType::kI32, by_token),
            b_.Input(absl::StrCat("weight", copy_), DType::kF32, by_token)};
  }

 private:
  GraphBuilder& b_;
  const int64_t rows_;
  const int copy_;
};

// The results of one copy, fused or not.
using BuildFn = std::function<std::vector<ValueId>(GraphBuilder& b,
                                                   Operands& in, bool fused)>;

std::vector<ValueId> Forward(GraphBuilder& b, Operands& in, bool fused) {
  const ValueId before = in.Rows("before"), rows = in.Rows("rows");
  const ValueId gain = in.Gain("gain"), fed_gain = in.Gain("fed_gain");
  if (fused) return {FedNorm(b, before, rows, gain, fed_gain, kEps)};
  const ValueId added = Add(b, rows, Scale(b, before, -1));
  const ValueId fed = RmsNorm(b, added, fed_gain, kEps);
  return {Add(b, RmsNorm(b, before, gain, kEps), fed)};
}

std::vector<ValueId> InputGrad(GraphBuilder& b, Operands& in, bool fused) {
  const ValueId dx = in.Rows("dx"), before = in.Rows("before");
  const ValueId rows = in.Rows("rows");
  const ValueId gain = in.Gain("gain"), fed_gain = in.Gain("fed_gain");
  const ValueId rstd = in.Scales("rstd"), fed_rstd = in.Scales("fed_rstd");
  const ValueId to_before = in.Rows("to_before"), to_rows = in.Rows("to_rows");
  if (fused) {
    return b.Add(kFedNormInputGrad, {dx, before, rows, gain, fed_gain, rstd,
                                     fed_rstd, to_before, to_rows});
  }
  // As many bytes as rows - before, which the graph before keeps.
  const ValueId g = b.Add1(kRmsNormInputGrad, {dx, before, gain, rstd});
  const ValueId sum = Add(b, to_before, g);
  const ValueId f = b.Add1(kRmsNormInputGrad, {dx, rows, fed_gain, fed_rstd});
  const ValueId d_rows = Add(b, to_rows, f);
  return {Add(b, sum, Scale(b, f, -1)), d_rows};
}

std::vector<ValueId> WeightGrad(GraphBuilder& b, Operands& in, bool fused) {
  const ValueId dx = in.Rows("dx"), before = in.Rows("before");
  const ValueId rows = in.Rows("rows");
  const ValueId rstd = in.Scales("rstd"), fed_rstd = in.Scales("fed_rstd");
  if (fused) {
    return b.Add(kFedNormWeightGrad, {dx, before, rows, rstd, fed_rstd});
  }
  const ValueId gain = in.Gain("gain");
  return {b.Add1(kRmsNormWeightGrad, {dx, before, gain, rstd}),
          b.Add1(kRmsNormWeightGrad, {dx, rows, gain, fed_rstd})};
}

std::vector<ValueId> NormGradAdd(GraphBuilder& b, Operands& in, bool fused,
                                 bool two) {
  const ValueId dy = in.Rows("dy"), x = in.Rows("x"), gain = in.Gain("gain");
  const ValueId rstd = in.Scales("rstd");
  const ValueId first = in.Rows("a"), second = two ? in.Rows("b") : kNone;
  if (fused) {
    return {b.Add1(kRmsNormInputGrad, {dy, x, gain, rstd, first, second})};
  }
  const ValueId sum = two ? Add(b, first, second) : first;
  return {Add(b, sum, b.Add1(kRmsNormInputGrad, {dy, x, gain, rstd}))};
}

std::vector<ValueId> Combine(GraphBuilder& b, Operands& in, bool fused,
                             bool two) {
  std::vector<ValueId> inputs = in.ExpertRows();
  const ValueId first = in.Rows("a"), second = two ? in.Rows("b") : kNone;
  if (fused) {
    inputs.push_back(first);
    inputs.push_back(second);
    return {b.Add1(kCombineRows, inputs)};
  }
  const ValueId sum = Add(b, first, b.Add1(kCombineRows, inputs));
  return {two ? Add(b, sum, second) : sum};
}

// `graph` with experts' rows in BF16, as a step has them.
Graph Narrow(const Graph& graph) {
  Graph narrow;
  for (Value value : graph.values()) {
    if (absl::StartsWith(value.name, "y")) value.type.dtype = DType::kBF16;
    value.producer = kNone;
    narrow.AddValue(std::move(value));
  }
  for (const Node& node : graph.nodes()) narrow.AddNode(node);
  for (const auto& [name, id] : graph.outputs()) narrow.SetOutput(name, id);
  return narrow;
}

Graph Build(const BuildFn& build, int64_t rows, int copies, bool fused) {
  GraphBuilder b;
  for (int copy = 0; copy < copies; ++copy) {
    Operands in(b, rows, copy);
    const std::vector<ValueId> results = build(b, in, fused);
    for (size_t i = 0; i < results.size(); ++i) {
      if (results[i] == kNone) continue;
      b.Output(absl::StrCat("result", copy, ".", i), results[i]);
    }
  }
  auto graph = b.Finish();
  CHECK(graph.ok()) << graph.status().ToString();
  return Narrow(*graph);
}

// Numbers that repeat; of integers each once, strewn.
void Fill(const TensorView& view, int64_t rows) {
  constexpr int64_t kNumbers = 1 << 16;
  const int64_t n = view.num_elements();
  if (view.dtype == DType::kI32) {
    for (int64_t i = 0; i < n; ++i) {
      view.as<int32_t>()[i] = static_cast<int32_t>(i * 40503 % (rows * kTop));
    }
    return;
  }
  std::vector<float> numbers(kNumbers);
  std::vector<BFloat16> narrow(kNumbers);
  for (int64_t i = 0; i < kNumbers; ++i) {
    numbers[i] = 0.25f + static_cast<float>(i * 40503 % kNumbers) / kNumbers;
    narrow[i] = RoundToBFloat16(numbers[i]);
  }
  const bool is_narrow = view.dtype == DType::kBF16;
  const int64_t size = is_narrow ? 2 : 4;
  const void* const from =
      is_narrow ? static_cast<const void*>(narrow.data()) : numbers.data();
  for (int64_t i = 0; i < n; i += kNumbers) {
    std::memcpy(static_cast<char*>(view.data) + i * size, from,
                std::min(kNumbers, n - i) * size);
  }
}

// The median of the turns, in microseconds.
double Time(const Graph& graph, int64_t rows, CudaBackend& backend) {
  StateStore state(backend);
  auto program = Program::Compile(graph, backend, state);
  CHECK(program.ok()) << program.status().ToString();
  for (const Value& value : graph.values()) {
    if (value.role == Role::kParameter) Fill(state.Get(value.name), rows);
    if (value.role != Role::kInput) continue;
    if (!(*program)->HasInput(value.name)) continue;
    const TensorView& view = (*program)->Input(value.name);
    Fill(view, rows);
    (*program)->FillInPlace(value.name);
    const absl::Status filled = backend.ToDevice(view);
    CHECK(filled.ok()) << filled.ToString();
  }
  std::vector<double> us;
  for (int turn = 0; turn < kWarm + kTurns; ++turn) {
    const Clock::time_point start = Clock::now();
    const absl::Status status = (*program)->Run();
    CHECK(status.ok()) << status.ToString();
    const std::chrono::duration<double> took = Clock::now() - start;
    if (turn >= kWarm) us.push_back(1e6 * took.count());
  }
  std::sort(us.begin(), us.end());
  return us[kTurns / 2];
}

void Run() {
  auto backend = CudaBackend::Create(CudaOptions(), AllCudaKernels());
  CHECK(backend.ok()) << backend.status().ToString();
  const struct {
    const char* name;
    BuildFn build;
  } cases[] = {
      {"FedNorm", Forward},
      {"FedNormInputGrad +a +b", InputGrad},
      {"FedNormWeightGrad", WeightGrad},
      {"RmsNormInputGrad +a",
       [](auto& b, auto& in, bool fused) {
         return NormGradAdd(b, in, fused, false);
       }},
      {"RmsNormInputGrad +a +b",
       [](auto& b, auto& in, bool fused) {
         return NormGradAdd(b, in, fused, true);
       }},
      {"CombineRows +a",
       [](auto& b, auto& in, bool fused) {
         return Combine(b, in, fused, false);
       }},
      {"CombineRows +a +b",
       [](auto& b, auto& in, bool fused) {
         return Combine(b, in, fused, true);
       }},
  };
  std::printf(
      "%s; microseconds, copies at %.0f GB/s\n%-24s %6s %9s %9s %6s %8s\n",
      (*backend)->device_name().c_str(), CopyBandwidth() * 1e-9, "", "rows",
      "separate", "fused", "MB", "of_copy");
  for (const int64_t rows : {int64_t{4096}, int64_t{16384}}) {
    for (const auto& c : cases) {
      double us[2], bytes = 0;
      for (const bool fused : {false, true}) {
        const Graph one = Build(c.build, rows, 1, fused);
        const Graph all = Build(c.build, rows, 1 + kCopies, fused);
        us[fused] =
            (Time(all, rows, **backend) - Time(one, rows, **backend)) / kCopies;
        const Cost cost = CostOf(one, nullptr);
        bytes = cost.bytes_read + cost.bytes_written;
      }
      std::printf("%-24s %6d %9.1f %9.1f %6.0f %8.2f\n", c.name,
                  static_cast<int>(rows), us[0], us[1], bytes * 1e-6,
                  bytes / (us[1] * 1e-6) / CopyBandwidth());
      std::fflush(stdout);
    }
  }
}

}  // namespace
}  // namespace strata::gpu

int main() { strata::gpu::Run(); }
