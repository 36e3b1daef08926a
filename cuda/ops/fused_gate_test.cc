#include "core/ops/fused_gate.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/cpu/all_kernels.h"
#include "core/cpu/cpu_backend.h"
#include "core/graph/builder.h"
#include "core/ops/dispatch.h"
#include "core/runtime/program.h"
#include "core/runtime/state_store.h"
#include "core/tensor/bfloat16.h"
#include "core/testing/status_matchers.h"
#include "cuda/ops/all_kernels.h"
#include "cuda/runtime/cuda_backend.h"
#include "cuda/testing/test_inputs.h"
#include "gtest/gtest.h"

// A tier's gate and the dispatch plan behind it, against the CPU's kernel: a
// token's route may be another only where a decision is within rounding.

namespace strata::gpu {
namespace {

struct Gate {
  const char* name;
  int64_t tokens, experts, d, groups, width, r;  // Width 0: energies are x's.
  int64_t k_max = 8;
  double exit_threshold = 0;
  bool bias = true;
  bool add_coarse = true;
  bool narrow = false;  // Weights in BF16.
  Precision precision = Precision::kF32;
  bool twins = false;  // Experts 2 j and 2 j + 1 are alike.

  int64_t keep() const { return (experts + 1) / 2; }
  TierGateOptions options() const {
    TierGateOptions o;
    o.groups = groups;
    o.keep = keep();
    o.attention_scale = 1 / std::sqrt(static_cast<double>(r));
    o.affinity_scale = 1 / static_cast<double>(r);
    o.add_coarse = add_coarse;
    o.tau = 0.75;
    o.k_min = 1;
    o.k_max = k_max;
    o.exit_threshold = exit_threshold;
    o.normalize = true;
    o.floor = 0.5;
    return o;
  }
};

std::string GateName(const testing::TestParamInfo<Gate>& info) {
  return info.param.name;
}

struct Matrix {
  int64_t rows, columns;
  std::vector<double> at;

  const double* operator[](int64_t row) const {
    return at.data() + row * columns;
  }
};

// All that a gate reads, in numbers that are BF16 if its weights are.
struct Inputs {
  Matrix x, token, key, bias, embedding;
  std::vector<Matrix> square;  // [r, r], seven
};

Inputs MakeInputs(const Gate& g) {
  std::mt19937 rng(5);
  std::normal_distribution<float> normal;
  const auto fill = [&](int64_t rows, int64_t columns, double scale,
                        bool narrow) {
    Matrix m = {rows, columns, {}};
    for (int64_t i = 0; i < rows * columns; ++i) {
      const float value = static_cast<float>(scale) * normal(rng);
      m.at.push_back(narrow ? Widen(RoundToBFloat16(value)) : value);
    }
    return m;
  };
  const int64_t projected = g.groups * g.width + g.r;
  const double by_r = 1 / std::sqrt(static_cast<double>(g.r));
  Inputs in;
  in.x = fill(g.tokens, g.d, 1, false);
  in.token =
      fill(projected, g.d, 1 / std::sqrt(static_cast<double>(g.d)), g.narrow);
  in.key = fill(g.experts, g.groups,
                1 / std::sqrt(static_cast<double>(g.groups)), g.narrow);
  in.bias = fill(g.experts, 1, 0.1, false);
  in.embedding = fill(g.experts, g.r, 1, false);
  for (int i = 0; i < 7; ++i) {
    in.square.push_back(fill(g.r, g.r, by_r, g.narrow));
  }
  for (int64_t e = 1; g.twins && e < g.experts; e += 2) {
    for (Matrix* m : {&in.key, &in.bias, &in.embedding}) {
      std::copy_n((*m)[e - 1], m->columns, m->at.begin() + e * m->columns);
    }
  }
  return in;
}

absl::StatusOr<Graph> BuildGate(const Gate& g) {
  GraphBuilder b;
  const DType weights = g.narrow ? DType::kBF16 : DType::kF32;
  const auto weight = [&](const std::string& name, int64_t rows,
                          int64_t columns) {
    return b.State(name, weights, {Static(rows), Static(columns)});
  };
  const Dim t = RaggedRows(b, g.tokens);
  const ValueId x = FloatInput(b, "x", t, g.d);
  std::vector<ValueId> context_inputs = {
      b.State("embedding", DType::kF32, {Static(g.experts), Static(g.r)})};
  for (int i = 0; i < 7; ++i) {
    context_inputs.push_back(weight(absl::StrCat("square", i), g.r, g.r));
  }
  const std::vector<ValueId> context =
      b.Add(kExpertContext, context_inputs,
            {{"scale", 1 / std::sqrt(static_cast<double>(g.r))}});
  const ValueId bias = b.State("bias", DType::kF32, {Static(g.experts)});
  RETURN_IF_ERROR(b.status());
  const std::vector<ValueId> routing =
      b.Add(kTierGate,
            {x, weight("token", g.groups * g.width + g.r, g.d),
             weight("key", g.experts, g.groups), g.bias ? bias : kNone,
             context[0], context[1], context[2]},
            TierGateAttrs(g.options()));
  RETURN_IF_ERROR(b.status());
  b.Output("expert", routing[0]);
  b.Output("stay", routing[1]);
  b.Output("weight", routing[2]);
  const DispatchPlanResult plan = DispatchPlan(b, routing[0], g.experts);
  b.Output("row_slot", plan.row_slot);
  b.Output("slot_row", plan.slot_row);
  b.Output("offset", plan.offset);
  return b.Finish();
}

void Fill(const Matrix& from, const TensorView& to) {
  for (size_t i = 0; i < from.at.size(); ++i) {
    const auto value = static_cast<float>(from.at[i]);
    if (to.dtype == DType::kBF16) {
      static_cast<BFloat16*>(to.data)[i] = RoundToBFloat16(value);
    } else {
      to.as<float>()[i] = value;
    }
  }
}

struct Routes {
  std::vector<int32_t> expert, row_slot, slot_row, offset;
  std::vector<uint8_t> stay;
  std::vector<float> weight;
};

template <typename T>
std::vector<T> ReadAll(const Program& program, const char* name) {
  const TensorView view = program.Output(name);
  return {view.as<T>(), view.as<T>() + view.num_elements()};
}

// The last of `runs` runs.
absl::StatusOr<Routes> Route(const Gate& g, const Inputs& in, Backend& backend,
                             int runs) {
  StateStore state(backend);
  ASSIGN_OR_RETURN(Graph graph, BuildGate(g));
  ASSIGN_OR_RETURN(const auto program,
                   Program::Compile(std::move(graph), backend, state));
  Fill(in.token, state.Get("token"));
  Fill(in.key, state.Get("key"));
  Fill(in.bias, state.Get("bias"));
  Fill(in.embedding, state.Get("embedding"));
  for (int i = 0; i < 7; ++i) {
    Fill(in.square[i], state.Get(absl::StrCat("square", i)));
  }
  for (int run = 0; run < runs; ++run) {
    *program->Input("n").as<int32_t>() = static_cast<int32_t>(g.tokens);
    Fill(in.x, program->Input("x"));
    RETURN_IF_ERROR(program->Run());
  }
  Routes routes;
  routes.expert = ReadAll<int32_t>(*program, "expert");
  routes.stay = ReadAll<uint8_t>(*program, "stay");
  routes.weight = ReadAll<float>(*program, "weight");
  routes.row_slot = ReadAll<int32_t>(*program, "row_slot");
  routes.slot_row = ReadAll<int32_t>(*program, "slot_row");
  routes.offset = ReadAll<int32_t>(*program, "offset");
  return routes;
}

// --- The gate in double, as far as it says how close a decision is ---

double Dot(const double* a, const double* b, int64_t n) {
  return std::inner_product(a, a + n, b, 0.0);
}

Matrix ByRows(const Matrix& a, const Matrix& b) {
  Matrix c = {a.rows, b.rows, {}};
  for (int64_t i = 0; i < a.rows; ++i) {
    for (int64_t j = 0; j < b.rows; ++j) {
      c.at.push_back(Dot(a[i], b[j], a.columns));
    }
  }
  return c;
}

Matrix Plus(Matrix a, const Matrix& b) {
  for (size_t i = 0; i < a.at.size(); ++i) a.at[i] += b.at[i];
  return a;
}

// softmax(scale * scores) over those that are left, times values.
Matrix Attend(Matrix scores, double scale,
              const std::vector<std::vector<bool>>& left,
              const Matrix& values) {
  Matrix out = {scores.rows, values.columns,
                std::vector<double>(scores.rows * values.columns)};
  for (int64_t i = 0; i < scores.rows; ++i) {
    double sum = 0;
    std::vector<double> share(scores.columns);
    for (int64_t e = 0; e < scores.columns; ++e) {
      if (!left.empty() && !left[i][e]) continue;
      share[e] = std::exp(scale * scores[i][e]);
      sum += share[e];
    }
    for (int64_t e = 0; e < scores.columns; ++e) {
      for (int64_t c = 0; c < values.columns; ++c) {
        out.at[i * values.columns + c] += share[e] / sum * values[e][c];
      }
    }
  }
  return out;
}

double Sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

// The least distance of a decision about each token from its other outcome.
std::vector<double> Margins(const Gate& g, const Inputs& in) {
  const TierGateOptions o = g.options();
  const Matrix mixed =
      Attend(ByRows(ByRows(in.embedding, in.square[0]),
                    ByRows(in.embedding, in.square[1])),
             o.attention_scale, {}, ByRows(in.embedding, in.square[2]));
  const Matrix experts = Plus(in.embedding, ByRows(mixed, in.square[3]));
  const Matrix key = ByRows(experts, in.square[4]);
  const Matrix value = ByRows(ByRows(experts, in.square[5]), in.square[6]);
  const Matrix token = ByRows(in.x, in.token);
  const int64_t energies = g.groups * g.width;

  Matrix signature = {g.tokens, g.groups, {}};
  Matrix query = {g.tokens, g.r, {}};
  for (int64_t i = 0; i < g.tokens; ++i) {
    const double* const row = energies > 0 ? token[i] : in.x[i];
    const int64_t width = (energies > 0 ? energies : g.d) / g.groups;
    const double all = Dot(row, row, g.groups * width);
    for (int64_t j = 0; j < g.groups; ++j) {
      const double* const slice = row + j * width;
      signature.at.push_back(
          std::sqrt(2. * width) *
          (std::sqrt(g.groups * Dot(slice, slice, width) / all) - 1));
    }
    query.at.insert(query.at.end(), token[i] + energies,
                    token[i] + energies + g.r);
  }
  const Matrix coarse = ByRows(signature, in.key);

  std::vector<double> margin(g.tokens, 1);
  const auto bias = [&](int64_t e) { return g.bias ? in.bias.at[e] : 0; };
  std::vector<std::vector<bool>> left;
  for (int64_t i = 0; i < g.tokens; ++i) {
    std::vector<std::pair<double, int64_t>> order;
    for (int64_t e = 0; e < g.experts; ++e) {
      order.emplace_back(-Sigmoid(coarse[i][e]) - bias(e), e);
    }
    std::sort(order.begin(), order.end());
    left.emplace_back(g.experts);
    for (int64_t j = 0; j < g.keep(); ++j) left[i][order[j].second] = true;
    if (g.keep() < g.experts) {
      margin[i] = order[g.keep()].first - order[g.keep() - 1].first;
    }
  }
  const Matrix refined =
      Plus(query, Attend(ByRows(query, key), o.attention_scale, left, value));
  const Matrix affinity = ByRows(refined, experts);
  for (int64_t i = 0; i < g.tokens; ++i) {
    std::vector<std::pair<double, double>> order;  // By biased p; p.
    double sum = 0, largest = 0;
    for (int64_t e = 0; e < g.experts; ++e) {
      if (!left[i][e]) continue;
      const double p = Sigmoid(o.affinity_scale * affinity[i][e] +
                               (g.add_coarse ? coarse[i][e] : 0));
      order.emplace_back(-p - bias(e), p);
      sum += p;
      largest = std::max(largest, p);
    }
    std::sort(order.begin(), order.end());
    margin[i] = std::min(margin[i], std::abs(largest - o.exit_threshold));
    double taken = 0;
    for (int64_t j = 0; j < g.k_max; ++j) {
      if (j + 1 < static_cast<int64_t>(order.size())) {
        margin[i] = std::min(margin[i], order[j + 1].first - order[j].first);
      }
      if (j >= static_cast<int64_t>(order.size())) break;
      taken += order[j].second;
      margin[i] = std::min(margin[i], std::abs(taken - o.tau * sum));
      if (taken >= o.tau * sum) break;
    }
  }
  return margin;
}

// Slots in the order of their experts, and of an expert's in their own.
void ExpectPlanOf(const Gate& g, const Routes& routes) {
  std::vector<int32_t> offset = {0}, row_slot;
  std::vector<int32_t> slot_row(routes.expert.size(), -1);
  for (int64_t e = 0; e < g.experts; ++e) {
    for (size_t s = 0; s < routes.expert.size(); ++s) {
      if (routes.expert[s] != e) continue;
      slot_row[s] = static_cast<int32_t>(row_slot.size());
      row_slot.push_back(static_cast<int32_t>(s));
    }
    offset.push_back(static_cast<int32_t>(row_slot.size()));
  }
  EXPECT_EQ(routes.row_slot, row_slot);
  EXPECT_EQ(routes.slot_row, slot_row);
  EXPECT_EQ(routes.offset, offset);
}

class TierGateTest : public DeviceTest<Gate> {
 protected:
  static absl::StatusOr<Routes> OnGpu(const Gate& g, const Inputs& in,
                                      int runs) {
    CudaOptions options;
    options.precision = g.precision;
    options.poison = true;
    ASSIGN_OR_RETURN(const auto backend,
                     CudaBackend::Create(options, AllCudaKernels()));
    return Route(g, in, *backend, runs);
  }
};

TEST_P(TierGateTest, RoutesAsTheCpuDoesButAtTies) {
  const Gate& g = GetParam();
  const Inputs in = MakeInputs(g);
  CpuBackend cpu(/*num_threads=*/2, AllCpuKernels());

  const auto want = Route(g, in, cpu, 1);
  const auto got = OnGpu(g, in, 1);
  const auto again = OnGpu(g, in, 3);

  ASSERT_THAT(want, IsOk());
  ASSERT_THAT(got, IsOk());
  ASSERT_THAT(again, IsOk());
  EXPECT_EQ(got->expert, again->expert);
  EXPECT_EQ(got->weight, again->weight);
  EXPECT_EQ(got->slot_row, again->slot_row);
  ExpectPlanOf(g, *got);
  // Sums of d, and of what follows, whose roundings add up as a random walk:
  // of scores of size up to about four, and p is a quarter as steep.
  const bool rough = g.precision == Precision::kBf16;
  const double unit = rough ? 0x1p-8 : 0x1p-24;
  const double bound =
      unit * (4 * std::sqrt(static_cast<double>(rough ? 1 : g.d)) + g.groups +
              g.r + g.experts);
  const std::vector<double> margin = Margins(g, in);
  int64_t others = 0;
  for (int64_t i = 0; i < g.tokens; ++i) {
    const auto first = i * g.k_max, end = first + g.k_max;
    const bool same =
        std::equal(want->expert.begin() + first, want->expert.begin() + end,
                   got->expert.begin() + first) &&
        want->stay[i] == got->stay[i];
    if (!same) {
      ++others;
      EXPECT_LT(margin[i], bound) << "token " << i;
      continue;
    }
    for (int64_t s = first; s < end; ++s) {
      // Divided by half at least.
      EXPECT_NEAR(got->weight[s], want->weight[s], 2 * bound) << "slot " << s;
    }
  }
  // Were all of them ties, nothing would be held to anything.
  EXPECT_LE(others, (rough ? 0.35 : 0.02) * g.tokens + 1);
}

TEST_P(TierGateTest, OfEqualExpertsTakesTheFirst) {
  Gate g = GetParam();
  g.twins = true;
  g.bias = false;  // One expert more than half would be left of a pair.
  const auto got = OnGpu(g, MakeInputs(g), 1);
  ASSERT_THAT(got, IsOk());
  for (int64_t i = 0; i < g.tokens; ++i) {
    const int32_t* const row = got->expert.data() + i * g.k_max;
    for (int64_t j = 0; j < g.k_max; ++j) {
      if (row[j] % 2 != 1) continue;
      EXPECT_EQ(std::count(row, row + j, row[j] - 1), 1) << "token " << i;
    }
  }
}

Gate With(Gate g, void (*change)(Gate&)) {
  change(g);
  return g;
}

// On both sides of 64 tokens (a cluster's), of 1024 and 2048 (clusters of 8, 4
// and 2), of 32 and 64 experts; with columns that leave blocks of a cluster
// without work, more tokens than clusters take at a time (and tiles than a plan
// reads at a time), and shapes that have no tensor cores.
INSTANTIATE_TEST_SUITE_P(
    Gates, TierGateTest,
    testing::Values(Gate{"OneToken", 1, 16, 128, 64, 1, 64},
                    Gate{"Small", 65, 8, 384, 64, 1, 32, 4},
                    Gate{"Leaves", 300, 48, 1024, 64, 1, 32, 8,
                         /*exit_threshold=*/0.8},
                    Gate{"FourBlocks", 1100, 33, 512, 32, 2, 32},
                    Gate{"TwoBlocks", 2100, 65, 256, 64, 1, 16, 6},
                    Gate{"SecondRound", 5700, 48, 512, 64, 1, 32, 8},
                    With({"Narrow", 200, 32, 1024, 64, 1, 32},
                         [](Gate& g) { g.narrow = true; }),
                    With({"Rounded", 500, 32, 1024, 64, 1, 32},
                         [](Gate& g) { g.precision = Precision::kBf16; }),
                    With({"Unbiased", 129, 128, 320, 16, 4, 28, 16},
                         [](Gate& g) { g.bias = g.add_coarse = false; }),
                    Gate{"OddWidths", 70, 31, 100, 6, 5, 10, 5},
                    With({"OddWidthsNarrow", 70, 31, 100, 6, 5, 10, 5},
                         [](Gate& g) { g.narrow = true; }),
                    Gate{"OwnEnergies", 90, 20, 96, 6, 0, 5, 4},
                    Gate{"ManyExperts", 40, 300, 256, 128, 1, 24, 40}),
    GateName);

}  // namespace
}  // namespace strata::gpu
