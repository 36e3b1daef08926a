#include "core/passes/chunk_losses.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/cpu/all_kernels.h"
#include "core/cpu/cpu_backend.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/ops/elementwise.h"
#include "core/ops/head_loss.h"
#include "core/ops/loss.h"
#include "core/ops/matmul.h"
#include "core/ops/optimizer.h"
#include "core/passes/autodiff.h"
#include "core/runtime/program.h"
#include "core/runtime/state_store.h"
#include "core/tensor/bfloat16.h"
#include "core/tensor/dtype.h"
#include "core/tensor/tensor.h"
#include "core/testing/status_matchers.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

constexpr int64_t kBound = 23, kWidth = 6, kVocab = 70;  // A panel and some.
constexpr int32_t kTokens = 19;

struct StepOptions {
  bool reads_logits = false;  // Logits are an output.
  bool trains_head = true;
  bool trains = true;
};

// Two losses by one projection, the second scaled and of rows behind the
// first's, as multi-token prediction has them.
Graph MakeStep(const StepOptions& options) {
  GraphBuilder b(DType::kF64);
  const Dim t = Ragged(kBound, b.Input("n", DType::kI32, {}));
  const ValueId target = b.Input("target", DType::kI32, {t});
  const ValueId next = b.Input("next", DType::kI32, {t});
  const ValueId first = b.Parameter("first", {Static(kWidth), Static(kWidth)});
  const ValueId second =
      b.Parameter("second", {Static(kWidth), Static(kWidth)});
  const ValueId head = b.Parameter("head", {Static(kVocab), Static(kWidth)});
  const ValueId x =
      Linear(b, b.Input("x", DType::kF64, {t, Static(kWidth)}), first);
  const ValueId logits = Linear(b, x, head);
  const CrossEntropyResult ce = CrossEntropy(b, logits, target);
  const CrossEntropyResult ahead =
      CrossEntropy(b, Linear(b, Linear(b, x, second), head), next);
  if (options.reads_logits) b.Output("logits", logits);
  b.Output("loss", ce.loss);
  b.Output("nll", ce.nll);
  b.Output("hit", ce.hit);
  const ValueId total = Add(b, ce.loss, Scale(b, ahead.loss, 0.3));
  b.Output("total", total);
  const ValueId keep = b.Input("keep", DType::kF64, {});
  if (!options.trains) return *b.Finish();
  std::vector<ValueId> wanted = {first, second};
  if (options.trains_head) wanted.push_back(head);
  const auto accumulate = [&](ValueId parameter, ValueId grad) {
    const Value value = b.graph().value(parameter);
    Accumulate(b, b.State("grad." + value.name, DType::kF64, value.type.dims),
               grad, keep);
  };
  EXPECT_THAT(
      Differentiate(b, {{total, strata::Fill(b, 1)}}, wanted, accumulate),
      IsOk());
  auto graph = b.Finish();
  EXPECT_THAT(graph, IsOk());
  return *std::move(graph);
}

int Count(const Graph& graph, const OpDef& op) {
  int count = 0;
  for (const Node& node : graph.nodes()) count += node.op == &op;
  return count;
}

// Outputs and sums of gradients, after two micro-batches.
std::map<std::string, std::vector<double>> RunStep(Graph graph,
                                                   int num_threads) {
  CpuBackend backend(num_threads, AllCpuKernels());
  StateStore state(backend);
  auto program = Program::Compile(std::move(graph), backend, state);
  EXPECT_THAT(program, IsOk());
  std::mt19937 rng(5);
  std::normal_distribution<double> normal;
  for (const char* name : {"first", "second", "head"}) {
    for (double& x : state.Get(name).span<double>()) x = normal(rng);
  }
  std::map<std::string, std::vector<double>> results;
  for (int batch = 0; batch < 2; ++batch) {
    *(*program)->Input("n").as<int32_t>() = kTokens - batch;
    *(*program)->Input("keep").as<double>() = batch;
    for (double& x : (*program)->Input("x").span<double>()) x = normal(rng);
    for (int32_t i = 0; i < kTokens; ++i) {
      const int32_t word = (i * 29 + batch) % kVocab;
      (*program)->Input("target").as<int32_t>()[i] = i % 5 == 3 ? -1 : word;
      (*program)->Input("next").as<int32_t>()[i] = i % 7 == 6 ? -1 : word / 2;
    }
    EXPECT_THAT((*program)->Run(), IsOk());
    for (const auto& [name, id] : (*program)->graph().outputs()) {
      const TensorView view = (*program)->Output(name);
      std::vector<double>& to = results[absl::StrCat(name, batch)];
      for (int64_t i = 0; i < view.num_elements(); ++i) {
        to.push_back(view.dtype == DType::kU8 ? view.as<uint8_t>()[i]
                                              : view.as<double>()[i]);
      }
    }
  }
  for (const std::string& name : state.names()) {
    const auto values = state.Get(name).span<double>();
    results[name].assign(values.begin(), values.end());
  }
  return results;
}

// Losses of `whole` become operators `op`, in whose place `products` were.
void ExpectThoseOfWholeLogits(const Graph& whole, const OpDef& op,
                              int products) {
  const auto want = RunStep(whole, 1);
  for (const int64_t chunk_rows : {1, 5, 18, 19, 64}) {
    const ChunkedLosses chunked = ChunkLosses(whole, chunk_rows);
    ASSERT_THAT(Verify(chunked.graph), IsOk());
    EXPECT_EQ(Count(chunked.graph, op), 2);
    EXPECT_EQ(Count(chunked.graph, kCrossEntropy), 0);
    EXPECT_EQ(Count(chunked.graph, kCrossEntropyGrad), 0);
    EXPECT_EQ(Count(chunked.graph, kMatMul), Count(whole, kMatMul) - products);

    const auto got = RunStep(chunked.graph, 2);

    ASSERT_EQ(got.size(), want.size());
    for (const auto& [name, values] : want) {
      double largest = 0;
      for (const double x : values) largest = std::max(largest, std::abs(x));
      ASSERT_EQ(got.at(name).size(), values.size()) << name;
      // Sums of up to 70 terms in another order, in double, and what exp()
      // makes of a logit's: 8 roundings of it, as large as it is.
      for (size_t i = 0; i < values.size(); ++i) {
        EXPECT_NEAR(got.at(name)[i], values[i], 256 * 0x1p-53 * largest)
            << name << " " << i << ", " << chunk_rows << " rows at a time";
      }
    }
  }
}

TEST(ChunkLossesTest, ResultsAreThoseOfWholeLogits) {
  ExpectThoseOfWholeLogits(MakeStep({}), kHeadLoss, 6);
}

TEST(ChunkLossesTest, SoAreThoseOfAValidation) {
  StepOptions options;
  options.trains = false;
  ExpectThoseOfWholeLogits(MakeStep(options), kHeadScore, 2);
}

// Losses by a projection that is BF16, or F32.
std::vector<float> ScoresBy(DType weight, const std::vector<BFloat16>& w) {
  GraphBuilder b;
  const Dim t = Ragged(kBound, b.Input("n", DType::kI32, {}));
  const ValueId x = b.Input("x", DType::kF32, {t, Static(kWidth)});
  const ValueId head =
      b.Input("head", weight, {Static(kVocab), Static(kWidth)});
  const auto out =
      b.Add(kHeadScore, {x, head, b.Input("target", DType::kI32, {t})},
            {{"chunk_rows", 5}});
  b.Output("nll", out[kHeadNll]);
  CpuBackend backend(/*num_threads=*/2, AllCpuKernels());
  StateStore state(backend);
  auto graph = b.Finish();
  EXPECT_THAT(graph, IsOk());
  auto program = Program::Compile(*std::move(graph), backend, state);
  EXPECT_THAT(program, IsOk());
  *(*program)->Input("n").as<int32_t>() = kTokens;
  std::mt19937 rng(5);
  std::normal_distribution<float> normal;
  for (float& value : (*program)->Input("x").span<float>()) value = normal(rng);
  for (int32_t i = 0; i < kTokens; ++i) {
    (*program)->Input("target").as<int32_t>()[i] = i * 29 % kVocab;
  }
  const TensorView view = (*program)->Input("head");
  for (size_t i = 0; i < w.size(); ++i) {
    if (weight == DType::kBF16) {
      view.as<BFloat16>()[i] = w[i];
    } else {
      view.as<float>()[i] = Widen(w[i]);
    }
  }
  EXPECT_THAT((*program)->Run(), IsOk());
  const auto nll = (*program)->Output("nll").span<float>();
  return {nll.begin(), nll.end()};
}

TEST(ChunkLossesTest, ScoresByWeightsInBf16AreThoseByTheSameInF32) {
  std::mt19937 rng(7);
  std::normal_distribution<float> normal;
  std::vector<BFloat16> w(kVocab * kWidth);
  for (BFloat16& x : w) x = RoundToBFloat16(normal(rng));
  const std::vector<float> want = ScoresBy(DType::kF32, w);
  EXPECT_EQ(want.size(), kTokens);
  EXPECT_EQ(ScoresBy(DType::kBF16, w), want);
}

// What inference gives for nodes of `op` is what they have.
void ExpectInferred(const Graph& chunked, const OpDef& op) {
  EXPECT_EQ(Count(chunked, op), 2);
  for (const Node& node : chunked.nodes()) {
    if (node.op != &op) continue;
    EXPECT_EQ(node.attrs.Int("chunk_rows"), LossChunkRows(kVocab));
    const auto types = node.op->infer({chunked, node.inputs, {}, node.attrs});
    ASSERT_THAT(types, IsOk());
    for (size_t i = 0; i < types->size(); ++i) {
      const ValueType& type = chunked.value(node.outputs[i]).type;
      EXPECT_EQ((*types)[i].dtype, type.dtype) << i;
      EXPECT_TRUE((*types)[i].dims == type.dims) << i;
    }
  }
}

TEST(ChunkLossesTest, OperatorsFindNothingWrongWithWhatItMakes) {
  ExpectInferred(ChunkLosses(MakeStep({})).graph, kHeadLoss);
  StepOptions options;
  options.trains = false;
  ExpectInferred(ChunkLosses(MakeStep(options)).graph, kHeadScore);
}

TEST(ChunkLossesTest, ValuesAreFoundAgain) {
  const Graph whole = MakeStep({});
  const ChunkedLosses chunked = ChunkLosses(whole);
  ASSERT_EQ(chunked.value.size(), whole.values().size());
  int gone = 0;
  for (size_t id = 0; id < chunked.value.size(); ++id) {
    if (chunked.value[id] == kNone) {
      ++gone;
      continue;
    }
    EXPECT_EQ(whole.value(static_cast<ValueId>(id)).name,
              chunked.graph.value(chunked.value[id]).name);
  }
  EXPECT_EQ(gone, 6);  // Logits, their lse and gradient, of two losses.
}

TEST(ChunkLossesTest, LogitsThatACallerReadsStay) {
  const Graph chunked = ChunkLosses(MakeStep({/*reads_logits=*/true})).graph;
  ASSERT_THAT(Verify(chunked), IsOk());
  EXPECT_EQ(Count(chunked, kHeadLoss), 1);
  EXPECT_EQ(Count(chunked, kCrossEntropy), 1);
}

TEST(ChunkLossesTest, AHeadThatIsNotTrainedKeepsItsLogits) {
  StepOptions options;
  options.trains_head = false;
  const Graph whole = MakeStep(options);
  EXPECT_EQ(ToText(ChunkLosses(whole).graph), ToText(whole));
}

TEST(ChunkLossesTest, ChunksHaveAsManyLogits) {
  EXPECT_EQ(LossChunkRows(32000), 4096);
  EXPECT_EQ(LossChunkRows(256), 524288);
  EXPECT_EQ(LossChunkRows(1 << 20), 128);
}

}  // namespace
}  // namespace strata
