// Norms and sums of the residual stream, held to the CPU's and to the operators
// that they stand for.

#include <cmath>
#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/ops/dispatch.h"
#include "core/ops/elementwise.h"
#include "core/ops/fed_norm.h"
#include "core/ops/norm.h"
#include "core/runtime/program.h"
#include "core/runtime/state_store.h"
#include "core/tensor/bfloat16.h"
#include "core/tensor/dtype.h"
#include "core/tensor/tensor.h"
#include "core/testing/status_matchers.h"
#include "cuda/ops/all_kernels.h"
#include "cuda/ops/residual/fed_norm.h"
#include "cuda/runtime/cuda_backend.h"
#include "cuda/testing/both_backends.h"
#include "cuda/testing/test_inputs.h"
#include "gtest/gtest.h"

namespace strata::gpu {
namespace {

constexpr double kEps = 1e-5;

// The operator and its gradients, or those that it stands for.
void BuildFed(GraphBuilder& b, Dim t, int64_t columns, bool fused, bool adds) {
  const ValueId before = FloatInput(b, "before", t, columns);
  const ValueId rows = FloatInput(b, "rows", t, columns);
  const ValueId dx = FloatInput(b, "dx", t, columns);
  const ValueId to_before =
      adds ? FloatInput(b, "to before", t, columns) : kNone;
  const ValueId to_rows = adds ? FloatInput(b, "to rows", t, columns) : kNone;
  const ValueId gain = b.Parameter("gain", {Static(columns)});
  const ValueId fed_gain = b.Parameter("fed gain", {Static(columns)});
  const auto output = [&](const std::vector<ValueId>& values) {
    const char* const names[] = {"x",      "rstd",  "fed_rstd", "d_before",
                                 "d_rows", "dgain", "dfed_gain"};
    for (size_t i = 0; i < values.size(); ++i) b.Output(names[i], values[i]);
  };
  if (fused) {
    const std::vector<ValueId> x =
        b.Add(kFedNorm, {before, rows, gain, fed_gain}, {{"eps", kEps}});
    const std::vector<ValueId> d = b.Add(
        kFedNormInputGrad,
        {dx, before, rows, gain, fed_gain, x[1], x[2], to_before, to_rows});
    const std::vector<ValueId> dgain =
        b.Add(kFedNormWeightGrad, {dx, before, rows, x[1], x[2]});
    return output({x[0], x[1], x[2], d[0], d[1], dgain[0], dgain[1]});
  }
  const ValueId added = Add(b, rows, Scale(b, before, -1));
  const std::vector<ValueId> y =
      b.Add(kRmsNorm, {before, gain}, {{"eps", kEps}});
  const std::vector<ValueId> fed =
      b.Add(kRmsNorm, {added, fed_gain}, {{"eps", kEps}});
  const ValueId g = b.Add1(kRmsNormInputGrad, {dx, before, gain, y[1]});
  const ValueId f = b.Add1(kRmsNormInputGrad, {dx, added, fed_gain, fed[1]});
  output({Add(b, y[0], fed[0]), y[1], fed[1],
          Add(b, adds ? Add(b, to_before, g) : g, Scale(b, f, -1)),
          adds ? Add(b, to_rows, f) : Scale(b, f, 1),
          b.Add1(kRmsNormWeightGrad, {dx, before, gain, y[1]}),
          b.Add1(kRmsNormWeightGrad, {dx, added, fed_gain, fed[1]})});
}

// `graph` with those values in BF16 that `is_narrow` names: sources by their
// names, results by those of outputs.
Graph Narrow(const Graph& graph,
             const std::function<bool(const std::string&)>& is_narrow) {
  std::vector<bool> narrow(graph.values().size());
  for (const auto& [name, id] : graph.outputs()) narrow[id] = is_narrow(name);
  Graph result;
  for (size_t id = 0; id < narrow.size(); ++id) {
    Value value = graph.value(static_cast<ValueId>(id));
    if (narrow[id] || (!value.name.empty() && is_narrow(value.name))) {
      value.type.dtype = DType::kBF16;
    }
    value.producer = kNone;
    result.AddValue(std::move(value));
  }
  for (const Node& node : graph.nodes()) result.AddNode(node);
  for (const auto& [name, id] : graph.outputs()) result.SetOutput(name, id);
  return result;
}

using Results = std::map<std::string, std::vector<float>>;

// Runs over poisoned memory; sources are numbers that are BF16, the same by
// name for each graph, and those called "slot_row" rows below `slots`.
Results RunOnDevice(Graph graph, int64_t slots = 1) {
  CudaOptions options;
  options.poison = true;
  auto backend = CudaBackend::Create(options, AllCudaKernels());
  EXPECT_THAT(backend, IsOk());
  StateStore state(**backend);
  auto program = Program::Compile(std::move(graph), **backend, state);
  EXPECT_THAT(program, IsOk());
  if (!program.ok()) return {};
  for (const Value& value : (*program)->graph().values()) {
    if (value.producer != kNone || value.role == Role::kActivation) continue;
    const TensorView view = value.role == Role::kInput
                                ? (*program)->Input(value.name)
                                : state.Get(value.name);
    const int seed = static_cast<int>(value.name.size() + value.name.back());
    const int64_t n = view.num_elements();
    if (view.dtype == DType::kI32) {
      FillInts(view, RandomInts(n, -1, static_cast<int>(slots - 1), seed));
      continue;
    }
    const std::vector<int32_t> numbers = RandomInts(n, -128, 128, seed);
    for (int64_t i = 0; i < n; ++i) {
      const float x = static_cast<float>(numbers[i]) / 64.f;
      if (view.dtype == DType::kBF16) {
        view.as<BFloat16>()[i] = RoundToBFloat16(x);
      } else {
        view.as<float>()[i] = x;
      }
    }
  }
  EXPECT_THAT((*program)->Run(), IsOk());
  Results results;
  for (const auto& [name, id] : (*program)->graph().outputs()) {
    const TensorView view = (*program)->Output(name);
    for (int64_t i = 0; i < view.num_elements(); ++i) {
      results[name].push_back(view.dtype == DType::kBF16
                                  ? Widen(view.as<BFloat16>()[i])
                                  : view.as<float>()[i]);
    }
  }
  return results;
}

Graph Built(const std::function<void(GraphBuilder&)>& build) {
  GraphBuilder b;
  build(b);
  auto graph = b.Finish();
  EXPECT_THAT(graph, IsOk());
  return *std::move(graph);
}

// Those of `shapes` that a test is about.
template <typename Shape>
std::vector<Shape> Those(std::vector<Shape> shapes, bool (*is_one)(Shape)) {
  std::vector<Shape> those;
  for (const Shape& shape : shapes) {
    if (is_one(shape)) those.push_back(shape);
  }
  return those;
}
// Rows that there are, and that are BF16 in whole vectors.
bool MayBeBf16(RowsColumns s) { return s.rows > 0 && s.columns % 8 == 0; }

// Rows and columns on both sides of what a thread, a warp, and each number of
// warps to a row hold, and of the rows of a block and of a part of a gain's
// sum.
std::vector<RowsColumns> FedShapes() {
  return {{0, 8},    {1, 8},    {3, 31},   {4, 32},   {5, 33},
          {33, 127}, {33, 128}, {9, 132},  {31, 256}, {32, 264},
          {65, 516}, {7, 1024}, {9, 1028}, {5, 2056}, {3, 4096},
          {3, 4104}, {2, 8192}, {2, 8190}, {300, 64}, {4100, 12}};
}

using FedNormTest = DeviceTest<RowsColumns>;
using FedNormBitsTest = DeviceTest<RowsColumns>;
using FedNormBf16Test = DeviceTest<RowsColumns>;

TEST_P(FedNormTest, AgreesWithTheCpu) {
  const auto [rows, columns] = GetParam();
  for (const bool adds : {false, true}) {
    EXPECT_THAT(CompareBackends(
                    [&, rows = rows, columns = columns](GraphBuilder& b) {
                      BuildFed(b, RaggedRows(b, rows), columns,
                               /*fused=*/true, adds);
                      return std::vector<ValueId>{};
                    },
                    // A row's sum is of `columns` terms, a gain's of `rows`.
                    {/*roundings=*/16. + columns + rows, WithRows(rows)}),
                IsOk());
  }
}

// Sums of rows and of gains are in the same order as those of separate norms,
// where rows are whole vectors; what is added is added to a rounded gradient.
TEST_P(FedNormBitsTest, AreThoseOfTheOperatorsThatItStandsFor) {
  const auto [rows, columns] = GetParam();
  for (const bool adds : {false, true}) {
    const auto run = [&, rows = rows, columns = columns](bool fused) {
      return RunOnDevice(Built([&](GraphBuilder& b) {
        BuildFed(b, Static(rows), columns, fused, adds);
      }));
    };
    EXPECT_EQ(run(/*fused=*/true), run(/*fused=*/false));
  }
}

TEST_P(FedNormBf16Test, RowsAreThoseInF32Rounded) {
  const auto [rows, columns] = GetParam();
  const Graph graph =
      Built([&, rows = rows, columns = columns](GraphBuilder& b) {
        BuildFed(b, Static(rows), columns, /*fused=*/true, /*adds=*/true);
      });
  const Results wide = RunOnDevice(graph);
  const auto rounded = [](float x) { return Widen(RoundToBFloat16(x)); };
  // All that can be, and each of two gradients alone.
  for (const std::set<std::string>& narrow :
       {std::set<std::string>{"dx", "to before", "to rows", "x", "d_before",
                              "d_rows"},
        {"to rows", "d_before"},
        {"dx", "d_rows"}}) {
    const Results got = RunOnDevice(Narrow(graph, [&](const std::string& name) {
      return narrow.count(name) > 0;
    }));
    for (const auto& [name, values] : wide) {
      std::vector<float> want = values;
      if (narrow.count(name) > 0) {
        for (float& x : want) x = rounded(x);
      }
      EXPECT_EQ(got.at(name), want) << name;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, FedNormTest, testing::ValuesIn(FedShapes()),
                         RowsColumnsName<RowsColumns>);
INSTANTIATE_TEST_SUITE_P(
    Shapes, FedNormBitsTest,
    testing::ValuesIn(Those<RowsColumns>(FedShapes(),
                                         [](RowsColumns s) {
                                           return s.rows > 0 &&
                                                  s.columns % 4 == 0;
                                         })),
    RowsColumnsName<RowsColumns>);
INSTANTIATE_TEST_SUITE_P(Shapes, FedNormBf16Test,
                         testing::ValuesIn(Those(FedShapes(), MayBeBf16)),
                         RowsColumnsName<RowsColumns>);

TEST(FedNormArgsTest, MoreColumnsThanABlockHoldsAreInvalid) {
  FedNormArgs args;
  args.tokens.bound = 1;
  args.width = kMaxFedColumns + 1;
  EXPECT_EQ(FedNorm(args, nullptr), cudaErrorInvalidValue);
  args.width = 0;
  EXPECT_EQ(FedNorm(args, nullptr), cudaErrorInvalidValue);
}

// --- Sums in stores ---

// RmsNormInputGrad of rows of one group and of two, and what is added.
void BuildNormGrads(GraphBuilder& b, Dim t, int64_t columns) {
  const ValueId dy = FloatInput(b, "dy", t, 2 * columns);
  const ValueId x = FloatInput(b, "x", t, 2 * columns);
  const ValueId a = FloatInput(b, "a", t, 2 * columns);
  const ValueId second = FloatInput(b, "b", t, 2 * columns);
  for (const int64_t groups : {1, 2}) {
    const std::string of = absl::StrCat(" of ", groups);
    const ValueId gain =
        b.Parameter(absl::StrCat("gain", of), {Static(2 * columns / groups)});
    const ValueId rstd = b.Add(kRmsNorm, {x, gain}, {{"eps", kEps}})[1];
    b.Output("dx+a" + of, b.Add1(kRmsNormInputGrad, {dy, x, gain, rstd, a}));
    b.Output("dx+a+b" + of,
             b.Add1(kRmsNormInputGrad, {dy, x, gain, rstd, a, second}));
  }
}

using NormGradAddTest = DeviceTest<RowsColumns>;
using NormGradAddBf16Test = DeviceTest<RowsColumns>;

TEST_P(NormGradAddTest, AgreesWithTheCpu) {
  const auto [rows, columns] = GetParam();
  EXPECT_THAT(CompareBackends(
                  [rows = rows, columns = columns](GraphBuilder& b) {
                    BuildNormGrads(b, RaggedRows(b, rows), columns);
                    return std::vector<ValueId>{};
                  },
                  {/*roundings=*/16. + 2. * columns, WithRows(rows)}),
              IsOk());
}

TEST_P(NormGradAddBf16Test, RowsAreThoseInF32ButForTheirRounding) {
  const auto [rows, columns] = GetParam();
  const Graph graph =
      Built([&, rows = rows, columns = columns](GraphBuilder& b) {
        BuildNormGrads(b, Static(rows), columns);
      });
  const Results wide = RunOnDevice(graph);
  for (const char* const first : {"dy", "a", "b"}) {
    const Results got = RunOnDevice(Narrow(graph, [&](const std::string& name) {
      return name == first || name.compare(0, 2, "dx") == 0;
    }));
    for (const auto& [name, values] : wide) {
      ASSERT_EQ(got.at(name).size(), values.size());
      double largest = 0;
      for (const float x : values) largest = std::fmax(largest, std::fabs(x));
      for (size_t i = 0; i < values.size(); ++i) {
        // Of 8 bits half the last is 2^-9 of the binade's end; sums of a row in
        // another order are some roundings of F32.
        EXPECT_NEAR(got.at(name)[i], values[i],
                    std::fabs(values[i]) * 0x1p-8 +
                        (16. + 2. * columns) * 0x1p-24 * largest)
            << name << " " << i;
      }
    }
  }
}

std::vector<RowsColumns> NormGradShapes() {
  return {{0, 8},   {1, 8},    {5, 31},   {33, 64},  {9, 128}, {7, 512},
          {5, 516}, {3, 1024}, {3, 2056}, {2, 4096}, {2, 4100}};
}
INSTANTIATE_TEST_SUITE_P(Shapes, NormGradAddTest,
                         testing::ValuesIn(NormGradShapes()),
                         RowsColumnsName<RowsColumns>);
INSTANTIATE_TEST_SUITE_P(Shapes, NormGradAddBf16Test,
                         testing::ValuesIn(Those(NormGradShapes(), MayBeBf16)),
                         RowsColumnsName<RowsColumns>);

struct Combined {
  int64_t tokens, k, width;
};

void BuildCombined(GraphBuilder& b, Dim t, const Combined& p) {
  const Dim slots = Static(p.tokens * p.k + 1);
  const ValueId y = FloatInput(b, "y", slots, p.width);
  const ValueId row_slot = b.Input("row_slot", DType::kI32, {slots});
  const ValueId slot_row = b.Input("slot_row", DType::kI32, {t, Static(p.k)});
  const ValueId weight = b.Input("weight", DType::kF32, {t, Static(p.k)});
  const ValueId a = FloatInput(b, "a", t, p.width);
  const ValueId second = FloatInput(b, "b", t, p.width);
  b.Output("sum", b.Add1(kCombineRows, {y, row_slot, slot_row, kNone, a}));
  b.Output("sums",
           b.Add1(kCombineRows, {y, row_slot, slot_row, weight, a, second}));
  b.Output("plain",
           Add(b, b.Add1(kCombineRows, {y, row_slot, slot_row, weight}), a));
  b.Output("stored", b.Add1(kCombineRows, {y, row_slot, slot_row, weight, a}));
}

using CombineAddTest = DeviceTest<Combined>;
using CombineAddBitsTest = DeviceTest<Combined>;

TEST_P(CombineAddTest, AgreesWithTheCpu) {
  const Combined& p = GetParam();
  const auto fill = [&](const std::string& name, const TensorView& view) {
    return name == "slot_row" &&
           FillInts(view, RandomInts(view.num_elements(), -1,
                                     static_cast<int>(p.tokens * p.k - 1), 3));
  };
  EXPECT_THAT(CompareBackends(
                  [&](GraphBuilder& b) {
                    BuildCombined(b, RaggedRows(b, p.tokens), p);
                    return std::vector<ValueId>{};
                  },
                  {/*roundings=*/4. + static_cast<double>(p.k),
                   WithRows(p.tokens, fill)}),
              IsOk());
}

// In F32 an Add's bits; rows in BF16 as they are, sums rounded where stored.
TEST_P(CombineAddBitsTest, AreAnAddsAndThoseInBf16Rounded) {
  const Combined& p = GetParam();
  const Graph graph =
      Built([&](GraphBuilder& b) { BuildCombined(b, Static(p.tokens), p); });
  const int64_t slots = p.tokens * p.k;
  const Results wide = RunOnDevice(graph, slots);
  EXPECT_EQ(wide.at("stored"), wide.at("plain"));
  if (p.width % 8 != 0) return;
  for (const std::set<std::string>& narrow :
       {std::set<std::string>{"y"},
        {"y", "a", "sum", "sums", "stored"},
        {"b", "sums"}}) {
    const Results got = RunOnDevice(
        Narrow(graph,
               [&](const std::string& name) { return narrow.count(name) > 0; }),
        slots);
    for (const char* name : {"sum", "sums", "stored"}) {
      std::vector<float> want = wide.at(name);
      if (narrow.count(name) > 0) {
        for (float& x : want) x = Widen(RoundToBFloat16(x));
      }
      EXPECT_EQ(got.at(name), want) << name;
    }
  }
}

std::vector<Combined> CombinedShapes() {
  return {{0, 2, 8},    {1, 1, 1},    {4, 2, 7},   {9, 1, 8},
          {33, 3, 255}, {33, 8, 256}, {5, 8, 264}, {300, 8, 1024}};
}
std::string CombinedName(const testing::TestParamInfo<Combined>& info) {
  return absl::StrCat(info.index, "_tokens", info.param.tokens, "_width",
                      info.param.width);
}
INSTANTIATE_TEST_SUITE_P(Shapes, CombineAddTest,
                         testing::ValuesIn(CombinedShapes()), CombinedName);
INSTANTIATE_TEST_SUITE_P(
    Shapes, CombineAddBitsTest,
    testing::ValuesIn(Those<Combined>(CombinedShapes(),
                                      [](Combined p) { return p.tokens > 0; })),
    CombinedName);

// Rows to experts and back, as they came and weighed.
using SentRowsTest = DeviceTest<Combined>;

TEST_P(SentRowsTest, InBf16TheyAreThoseInF32Rounded) {
  const Combined& p = GetParam();
  constexpr int64_t kExperts = 5;
  const Graph graph = Built([&](GraphBuilder& b) {
    const Dim t = Static(p.tokens);
    const DispatchPlanResult plan = DispatchPlan(
        b, b.Input("expert", DType::kI32, {t, Static(p.k)}), kExperts);
    const ValueId x = FloatInput(b, "x", t, p.width);
    const ValueId weight = b.Input("weight", DType::kF32, {t, Static(p.k)});
    const ValueId rows = DispatchRows(b, x, plan);
    const ValueId weighed = DispatchRows(b, x, plan, weight);
    b.Output("rows", rows);
    b.Output("weighed", weighed);
    b.Output("back", CombineRows(b, rows, plan));
    b.Output("weighed back", CombineRows(b, weighed, plan));
  });
  const Results wide = RunOnDevice(graph, kExperts);
  for (const std::set<std::string>& narrow :
       {std::set<std::string>{"rows", "weighed"}, {"x", "rows", "weighed"}}) {
    const Results got = RunOnDevice(
        Narrow(graph,
               [&](const std::string& name) { return narrow.count(name) > 0; }),
        kExperts);
    // x is BF16 in any case. Of a weighed row, at most 4, half the last of 8
    // bits is 2^-7.
    EXPECT_EQ(got.at("back"), wide.at("back"));
    const std::vector<float>& want = wide.at("weighed back");
    ASSERT_EQ(got.at("weighed back").size(), want.size());
    for (size_t i = 0; i < want.size(); ++i) {
      EXPECT_NEAR(got.at("weighed back")[i], want[i],
                  static_cast<double>(p.k) * 0x1p-7)
          << i;
    }
  }
}

// Both sides of the widest row that a warp holds, and of its lanes' share.
INSTANTIATE_TEST_SUITE_P(Shapes, SentRowsTest,
                         testing::Values(Combined{1, 1, 8}, Combined{9, 2, 248},
                                         Combined{33, 8, 256},
                                         Combined{40, 4, 264},
                                         Combined{300, 8, 1024},
                                         Combined{17, 3, 1032}),
                         CombinedName);

}  // namespace
}  // namespace strata::gpu
