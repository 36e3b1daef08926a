// What experts cost the rank that has them, where rows are bounded by what all
// ranks of a group could send:
//
//   bazel run -c opt --config=cuda //cuda/ops/bf16:owner_rows_benchmark
//
// Sizes of a tier of `small`: rows of 384, experts of 80. One captured program
// each, of kCopies of the operators on rows of their own, so that rows come
// from memory, and none; times are the difference over kCopies. Products round
// to BF16; rows are F32 or BF16 in memory.
//
//   forward    x -> product, SwiGLU, product
//   rows       their gradients: product, SwiGLU's, product
//   weights    the gradients of both weights

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/base/check.h"
#include "core/base/random.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/ops/activation.h"
#include "core/ops/grouped_matmul.h"
#include "core/runtime/program.h"
#include "core/runtime/state_store.h"
#include "core/tensor/bfloat16.h"
#include "core/tensor/dtype.h"
#include "core/tensor/tensor.h"
#include "cuda/ops/all_kernels.h"
#include "cuda/runtime/cuda_backend.h"

namespace strata::gpu {
namespace {

constexpr int kCopies = 4;
constexpr int kTurns = 15, kWarm = 4;
constexpr int64_t kModel = 384, kWidth = 80;

struct Size {
  int64_t bound, rows, experts;
  bool bf16;
};

enum class Part { kForward, kRows, kWeights };

using Clock = std::chrono::steady_clock;

// Activations of ragged rows, and what is read of them, in BF16.
Graph InBf16(const Graph& graph) {
  Graph narrow;
  for (Value value : graph.values()) {
    if (value.type.rank() == 2 && value.type.dims[0].ragged()) {
      value.type.dtype = DType::kBF16;
    }
    value.producer = kNone;
    narrow.AddValue(std::move(value));
  }
  for (const Node& node : graph.nodes()) narrow.AddNode(node);
  for (const auto& [name, id] : graph.outputs()) narrow.SetOutput(name, id);
  return narrow;
}

Graph Build(const Size& size, Part part, int copies) {
  GraphBuilder b(DType::kF32);
  const Dim rows = Ragged(size.bound, b.Input("rows", DType::kI32, {}));
  const ValueId offset =
      b.Input("offset", DType::kI32, {Static(size.experts + 1)});
  const Dim experts = Static(size.experts);
  const ValueId up =
      b.Parameter("up", {experts, Static(2 * kWidth), Static(kModel)});
  const ValueId down =
      b.Parameter("down", {experts, Static(kModel), Static(kWidth)});
  std::vector<ValueId> results;
  for (int copy = 0; copy < copies; ++copy) {
    const auto input = [&](const char* name, int64_t columns) {
      return b.Input(absl::StrCat(name, copy), DType::kF32,
                     {rows, Static(columns)});
    };
    switch (part) {
      case Part::kForward:
        results.push_back(GroupedMatMul(
            b, SwiGlu(b, GroupedMatMul(b, input("x", kModel), up, offset)),
            down, offset));
        break;
      case Part::kRows: {
        const ValueId dh = GroupedMatMul(b, input("x", kModel), down, offset,
                                         /*transpose_w=*/false);
        const ValueId dup = b.Add1(kSwiGluGrad, {dh, input("h", 2 * kWidth)});
        results.push_back(
            GroupedMatMul(b, dup, up, offset, /*transpose_w=*/false));
        break;
      }
      case Part::kWeights: {
        const ValueId x = input("x", kModel);
        results.push_back(
            b.Add1(kGroupedWeightGrad, {x, input("y", kWidth), offset}));
        results.push_back(
            b.Add1(kGroupedWeightGrad, {input("h", 2 * kWidth), x, offset}));
        break;
      }
    }
  }
  for (size_t i = 0; i < results.size(); ++i) {
    b.Output(absl::StrCat("result", i), results[i]);
  }
  auto graph = b.Finish();
  CHECK(graph.ok()) << graph.status().ToString();
  return size.bf16 ? InBf16(*graph) : *graph;
}

// The first `n` elements, by numbers that repeat.
void Fill(const TensorView& view, int64_t n, uint64_t stream) {
  constexpr int64_t kNumbers = 1 << 16;
  Random random(/*seed=*/1, stream);
  std::vector<float> numbers(kNumbers);
  for (float& x : numbers) x = static_cast<float>(random.Uniform()) - 0.5f;
  for (int64_t i = 0; i < n; ++i) {
    const float x = numbers[(i + i / kNumbers * 7) % kNumbers];
    if (view.dtype == DType::kBF16) {
      static_cast<BFloat16*>(view.data)[i] = RoundToBFloat16(x);
    } else {
      view.as<float>()[i] = x;
    }
  }
}

// The median of the turns, in microseconds.
double Time(const Size& size, Part part, int copies, CudaBackend& backend) {
  StateStore state(backend);
  auto program = Program::Compile(Build(size, part, copies), backend, state);
  CHECK(program.ok()) << program.status().ToString();
  int32_t* const offset = (*program)->Input("offset").as<int32_t>();
  for (int64_t e = 0; e <= size.experts; ++e) {
    offset[e] = static_cast<int32_t>(size.rows * e / size.experts);
  }
  *(*program)->Input("rows").as<int32_t>() = static_cast<int32_t>(size.rows);
  uint64_t stream = 0;
  for (const char* name : {"up", "down"}) {
    if (!state.Has(name)) continue;
    const TensorView& view = state.Get(name);
    Fill(view, view.num_elements(), ++stream);
  }
  for (int copy = 0; copy < copies; ++copy) {
    for (const char* name : {"x", "h", "y"}) {
      const std::string input = absl::StrCat(name, copy);
      if (!(*program)->HasInput(input)) continue;
      const TensorView& view = (*program)->Input(input);
      Fill(view, size.rows * view.dim(1), ++stream);
      (*program)->FillInPlace(input);
      const absl::Status filled = backend.ToDevice(view);
      CHECK(filled.ok()) << filled.ToString();
    }
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
  CudaOptions options;
  options.precision = Precision::kBf16;
  auto backend = CudaBackend::Create(options, AllCudaKernels());
  CHECK(backend.ok()) << backend.status().ToString();
  std::printf("%s; microseconds\n%7s %7s %7s %5s %9s %9s %9s\n",
              (*backend)->device_name().c_str(), "bound", "rows", "experts",
              "in", "forward", "rows", "weights");
  for (const bool bf16 : {false, true}) {
    for (const Size size :
         {Size{32768, 28672, 8, bf16}, Size{32768, 28672, 2, bf16},
          Size{131072, 28672, 2, bf16}, Size{131072, 28672, 4, bf16},
          Size{131072, 57344, 2, bf16}}) {
      std::printf("%7d %7d %7d %5s", static_cast<int>(size.bound),
                  static_cast<int>(size.rows), static_cast<int>(size.experts),
                  bf16 ? "BF16" : "F32");
      for (const Part part : {Part::kForward, Part::kRows, Part::kWeights}) {
        const double one = Time(size, part, 1, **backend);
        const double all = Time(size, part, 1 + kCopies, **backend);
        std::printf(" %9.1f", (all - one) / kCopies);
      }
      std::printf("\n");
      std::fflush(stdout);
    }
  }
}

}  // namespace
}  // namespace strata::gpu

int main() { strata::gpu::Run(); }
