#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/tensor/bfloat16.h"
#include "core/testing/status_matchers.h"
#include "cuda/kernels/causal_attention.h"
#include "cuda/kernels/counter_of.h"
#include "cuda/kernels/grouped_product.h"
#include "cuda/kernels/tensor_map.h"
#include "cuda/runtime/device_array.h"
#include "cuda/runtime/status.h"
#include "cuda/testing/test_inputs.h"
#include "cuda_bf16.h"
#include "gtest/gtest.h"

// Results in BF16, for which the CPU has no kernels; those in F32 are held to
// the CPU's in cuda/ops.

namespace strata::gpu {
namespace {

std::vector<BFloat16> Numbers(int64_t n, int seed) {
  std::vector<BFloat16> numbers;
  for (const int32_t x : RandomInts(n, -256, 256, seed)) {
    numbers.push_back(RoundToBFloat16(x / 128.f));
  }
  return numbers;
}

const __nv_bfloat16* Data(const DeviceArray<BFloat16>& array) {
  return reinterpret_cast<const __nv_bfloat16*>(array.data());
}

// A result that is exact but for the rounding to BF16, and some of its F32 sum.
void ExpectRounded(BFloat16 got, double want, double sum_error) {
  EXPECT_NEAR(Widen(got), want, std::abs(want) * 0x1p-8 + sum_error);
}

struct Grouped {
  bool transposed;
  int64_t n, k;
  std::vector<int32_t> rows;
};
std::string GroupedName(const testing::TestParamInfo<Grouped>& info) {
  return absl::StrCat(info.index,
                      info.param.transposed ? "_rows_" : "_columns_",
                      info.param.n, "x", info.param.k);
}
using GroupedBf16Test = DeviceTest<Grouped>;

absl::StatusOr<std::vector<BFloat16>> Multiply(
    const Grouped& p, const std::vector<int32_t>& offset,
    const std::vector<BFloat16>& x, const std::vector<BFloat16>& w) {
  ASSIGN_OR_RETURN(const auto device_x, DeviceArray<BFloat16>::CopyOf(x));
  ASSIGN_OR_RETURN(const auto device_w, DeviceArray<BFloat16>::CopyOf(w));
  ASSIGN_OR_RETURN(const auto device_offset,
                   DeviceArray<int32_t>::CopyOf(offset));
  ASSIGN_OR_RETURN(const auto y,
                   DeviceArray<BFloat16>::Allocate(offset.back() * p.n));
  GroupedProductArgs args;
  args.rows = {offset.back(), nullptr};
  args.num_experts = static_cast<int>(p.rows.size());
  args.n = p.n;
  args.k = p.k;
  args.x = Data(device_x);
  args.w = Data(device_w);
  args.transposed = p.transposed;
  args.offset = device_offset.data();
  args.y = y.data();
  args.bf16_y = true;
  RETURN_IF_ERROR(ToStatus(GroupedProduct(args, /*stream=*/nullptr)));
  return y.ToHost();
}

TEST_P(GroupedBf16Test, AgreesWithALoopInDouble) {
  if (!IsHopper()) GTEST_SKIP() << "no Hopper";
  const Grouped& p = GetParam();
  std::vector<int32_t> offset = {0};
  for (const int32_t r : p.rows) offset.push_back(offset.back() + r);
  const std::vector<BFloat16> x = Numbers(offset.back() * p.k, 1);
  const std::vector<BFloat16> w = Numbers(p.rows.size() * p.n * p.k, 2);

  const auto y = Multiply(p, offset, x, w);

  ASSERT_THAT(y, IsOk());
  for (size_t e = 0; e < p.rows.size(); ++e) {
    for (int64_t i = offset[e]; i < offset[e + 1]; ++i) {
      for (int64_t j = 0; j < p.n; ++j) {
        double want = 0;
        for (int64_t c = 0; c < p.k; ++c) {
          const int64_t at = p.transposed ? j * p.k + c : c * p.n + j;
          want += double{Widen(x[i * p.k + c])} *
                  Widen(w[static_cast<int64_t>(e) * p.n * p.k + at]);
        }
        // Terms are at most 4.
        ExpectRounded((*y)[i * p.n + j], want, 4. * p.k * p.k * 0x1p-24);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, GroupedBf16Test,
                         testing::Values(Grouped{true, 8, 8, {1}},
                                         Grouped{true, 264, 72, {65, 200}},
                                         Grouped{true, 520, 64, {128, 0, 129}},
                                         Grouped{false, 8, 8, {3, 1}},
                                         Grouped{false, 264, 72, {65, 200}},
                                         Grouped{false, 256, 136, {257, 1}}),
                         GroupedName);

struct Summed {
  int64_t n, k;
  std::vector<int32_t> rows;
  float keep;
};
using GroupedSumTest = DeviceTest<Summed>;

// What was there is NaN where nothing of it is to be kept.
TEST_P(GroupedSumTest, WeightGradientsAreAddedToWhatIsKept) {
  if (!IsHopper()) GTEST_SKIP() << "no Hopper";
  const Summed& p = GetParam();
  std::vector<int32_t> offset = {0};
  for (const int32_t r : p.rows) offset.push_back(offset.back() + r);
  const std::vector<BFloat16> dy = Numbers(offset.back() * p.n, 1);
  const std::vector<BFloat16> x = Numbers(offset.back() * p.k, 2);
  std::vector<BFloat16> before = Numbers(p.rows.size() * p.n * p.k, 3);
  if (p.keep == 0) before.assign(before.size(), BFloat16{0x7fc0});
  const auto device_dy = DeviceArray<BFloat16>::CopyOf(dy);
  const auto device_x = DeviceArray<BFloat16>::CopyOf(x);
  const auto device_offset = DeviceArray<int32_t>::CopyOf(offset);
  const auto sum = DeviceArray<BFloat16>::CopyOf(before);
  const auto keep = DeviceArray<float>::CopyOf(std::vector<float>{p.keep});
  ASSERT_THAT(sum, IsOk());
  GroupedWeightGradArgs args;
  args.rows = {offset.back(), nullptr};
  args.num_experts = static_cast<int>(p.rows.size());
  args.n = p.n;
  args.k = p.k;
  args.dy = Data(*device_dy);
  args.x = Data(*device_x);
  args.offset = device_offset->data();
  args.dw = sum->data();
  args.bf16_dw = true;
  args.keep = keep->data();

  ASSERT_EQ(GroupedWeightGrad(args, /*stream=*/nullptr), cudaSuccess);

  const auto got = sum->ToHost();
  ASSERT_THAT(got, IsOk());
  for (size_t e = 0; e < p.rows.size(); ++e) {
    for (int64_t i = 0; i < p.n; ++i) {
      for (int64_t j = 0; j < p.k; ++j) {
        const int64_t at = (static_cast<int64_t>(e) * p.n + i) * p.k + j;
        double want = p.keep == 0 ? 0 : p.keep * double{Widen(before[at])};
        for (int64_t r = offset[e]; r < offset[e + 1]; ++r) {
          want += double{Widen(dy[r * p.n + i])} * Widen(x[r * p.k + j]);
        }
        // Terms are at most 4.
        const double terms = p.rows[e] + 1;
        ExpectRounded((*got)[at], want, 4 * terms * terms * 0x1p-24);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, GroupedSumTest,
                         testing::Values(Summed{8, 8, {1}, 0},
                                         Summed{136, 264, {65, 0, 200}, 0},
                                         Summed{136, 264, {65, 0, 200}, 1},
                                         Summed{128, 256, {64, 129}, 0.5f}),
                         [](const testing::TestParamInfo<Summed>& info) {
                           return absl::StrCat(info.index, "_", info.param.n,
                                               "x", info.param.k);
                         });

// A product of random numbers: whose tiles are whoever's may not change a bit.
class ClaimedTilesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!HasDevice() || !IsHopper()) GTEST_SKIP() << "no Hopper";
    for (cudaStream_t& stream : stream_) {
      ASSERT_EQ(cudaStreamCreate(&stream), cudaSuccess);
    }
    for (const int32_t r : rows_) offset_.push_back(offset_.back() + r);
    const int64_t rows = offset_.back(), experts = rows_.size();
    const auto on_device = [](auto& array, auto status) {
      ASSERT_THAT(status, IsOk());
      array = std::make_unique<
          typename std::remove_reference_t<decltype(array)>::element_type>(
          *std::move(status));
    };
    on_device(x_, DeviceArray<BFloat16>::CopyOf(Numbers(rows * kDeep, 1)));
    on_device(dy_, DeviceArray<BFloat16>::CopyOf(Numbers(rows * kWide, 2)));
    on_device(
        w_, DeviceArray<BFloat16>::CopyOf(Numbers(experts * kWide * kDeep, 3)));
    on_device(device_offset_, DeviceArray<int32_t>::CopyOf(offset_));
    for (auto& y : y_) {
      on_device(y, DeviceArray<BFloat16>::Allocate(
                       std::max(rows, experts * kDeep) * kWide));
    }
  }
  void TearDown() override {
    for (cudaStream_t stream : stream_) {
      if (stream != nullptr) cudaStreamDestroy(stream);
    }
  }

  // A product of kind 0 to 3 into y_[to].
  cudaError_t Enqueue(int kind, bool claims, int to, cudaStream_t stream) {
    if (kind == 3) {
      GroupedWeightGradArgs args;
      args.rows = {offset_.back(), nullptr};
      args.num_experts = static_cast<int>(rows_.size());
      args.n = kWide;
      args.k = deep_;
      args.dy = Data(*dy_);
      args.x = Data(*x_);
      args.offset = device_offset_->data();
      args.dw = y_[to]->data();
      args.bf16_dw = true;
      args.claims = claims;
      return GroupedWeightGrad(args, stream);
    }
    GroupedProductArgs args = ProductOf(kind, to);
    args.claims = claims;
    return GroupedProduct(args, stream);
  }
  GroupedProductArgs ProductOf(int kind, int to) {
    GroupedProductArgs args;
    args.rows = {offset_.back(), nullptr};
    args.num_experts = static_cast<int>(rows_.size());
    args.n = kWide;
    args.k = deep_;
    args.x = Data(*x_);
    args.w = Data(*w_);
    args.transposed = kind > 0;
    args.swiglu = kind == 2;
    args.offset = device_offset_->data();
    args.y = y_[to]->data();
    args.bf16_y = true;
    return args;
  }

  // The bits of y_[i], which is poisoned then.
  std::vector<uint16_t> Take(int i) {
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    const auto host = y_[i]->ToHost();
    EXPECT_THAT(host, IsOk());
    std::vector<uint16_t> bits;
    for (const BFloat16 x : *host) bits.push_back(x.bits);
    Poison(i);
    return bits;
  }
  void Poison(int i) {
    EXPECT_EQ(cudaMemset(y_[i]->data(), 0xff, y_[i]->size() * sizeof(BFloat16)),
              cudaSuccess);
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  }

  static constexpr int64_t kWide = 2048, kDeep = 512;
  // 26 x 8 tiles of rows and 10 x 16 and more of weights, so that each of 66
  // clusters of two blocks has more than one; some rows of tiles are alone.
  const std::vector<int32_t> rows_ = {300, 0,  129, 600, 1,
                                      140, 77, 500, 64,  800};
  int64_t deep_ = 64;  // As little as there can be in a stage, up to kDeep.
  std::vector<int32_t> offset_ = {0};
  std::unique_ptr<DeviceArray<BFloat16>> x_, dy_, w_;
  std::unique_ptr<DeviceArray<int32_t>> device_offset_;
  std::unique_ptr<DeviceArray<BFloat16>> y_[2];
  cudaStream_t stream_[2] = {};
};

TEST_F(ClaimedTilesTest, GiveTheBitsOfFixedShares) {
  for (int kind = 0; kind < 4; ++kind) {
    SCOPED_TRACE(kind);
    Poison(0);
    ASSERT_EQ(Enqueue(kind, /*claims=*/false, 0, stream_[0]), cudaSuccess);
    const std::vector<uint16_t> want = Take(0);
    // The kernel before has left the counter as it must be.
    for (int turn = 0; turn < 3; ++turn) {
      ASSERT_EQ(Enqueue(kind, /*claims=*/true, 0, stream_[0]), cudaSuccess);
      EXPECT_TRUE(Take(0) == want) << turn;
    }
  }
}

// Products of which the second brings weights while the first still runs, some
// of whose blocks end long before others: many times over, as it is chance how
// far one block of a cluster gets before the other begins.
TEST_F(ClaimedTilesTest, AndWeightsAheadChangeNothing) {
  constexpr int64_t kHalf = kWide / 2;
  deep_ = kDeep;
  const auto enqueue = [&](bool ahead) {
    GroupedProductArgs up = ProductOf(/*kind=*/2, /*to=*/0);
    up.ahead = ahead;
    ASSERT_EQ(GroupedProduct(up, stream_[0]), cudaSuccess);
    GroupedProductArgs down = ProductOf(/*kind=*/1, /*to=*/1);
    down.n = down.k = kHalf;  // [rows, kHalf] by [E, kHalf, kHalf]
    down.x = Data(*y_[0]);
    down.ahead = down.weights_ahead = ahead;
    ASSERT_EQ(GroupedProduct(down, stream_[0]), cudaSuccess);
  };
  Poison(0);
  Poison(1);
  enqueue(/*ahead=*/false);
  const std::vector<uint16_t> want = Take(1);
  for (int turn = 0; turn < 3; ++turn) {
    for (int i = 0; i < 200; ++i) enqueue(/*ahead=*/true);
    EXPECT_TRUE(Take(1) == want) << turn;
  }
}

// Of two kernels at a time the one's blocks wait for the other's to end.
TEST_F(ClaimedTilesTest, AndWhereSomeBlocksBeginLate) {
  deep_ = kDeep;
  for (int kind = 0; kind < 4; ++kind) {
    SCOPED_TRACE(kind);
    const int other = (kind + 1) % 4;
    Poison(0);
    Poison(1);
    ASSERT_EQ(Enqueue(kind, /*claims=*/false, 0, stream_[0]), cudaSuccess);
    const std::vector<uint16_t> want = Take(0);
    ASSERT_EQ(Enqueue(other, /*claims=*/false, 1, stream_[0]), cudaSuccess);
    const std::vector<uint16_t> other_want = Take(1);
    for (int turn = 0; turn < 5; ++turn) {
      for (int twice = 0; twice < 2; ++twice) {
        ASSERT_EQ(Enqueue(kind, /*claims=*/true, 0, stream_[0]), cudaSuccess);
        ASSERT_EQ(Enqueue(other, /*claims=*/true, 1, stream_[1]), cudaSuccess);
      }
      EXPECT_TRUE(Take(0) == want) << turn;
      EXPECT_TRUE(Take(1) == other_want) << turn;
    }
  }
}

TEST_F(ClaimedTilesTest, AndInACapturedGraph) {
  deep_ = 200;
  Poison(0);
  ASSERT_EQ(Enqueue(/*kind=*/1, /*claims=*/false, 0, stream_[0]), cudaSuccess);
  const std::vector<uint16_t> want = Take(0);
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  ASSERT_EQ(
      cudaStreamBeginCapture(stream_[0], cudaStreamCaptureModeThreadLocal),
      cudaSuccess);
  ASSERT_EQ(Enqueue(/*kind=*/3, /*claims=*/true, 1, stream_[0]), cudaSuccess);
  ASSERT_EQ(Enqueue(/*kind=*/1, /*claims=*/true, 0, stream_[0]), cudaSuccess);
  ASSERT_EQ(cudaStreamEndCapture(stream_[0], &graph), cudaSuccess);
  ASSERT_EQ(cudaGraphInstantiate(&executable, graph, 0), cudaSuccess);
  for (int turn = 0; turn < 3; ++turn) {
    ASSERT_EQ(cudaGraphLaunch(executable, stream_[0]), cudaSuccess);
    ASSERT_EQ(cudaGraphLaunch(executable, stream_[0]), cudaSuccess);
    EXPECT_TRUE(Take(0) == want) << turn;
  }
  cudaGraphExecDestroy(executable);
  cudaGraphDestroy(graph);
}

TEST_F(ClaimedTilesTest, EachStreamAndCaptureHasACounterOfItsOwn) {
  uint32_t* const first = CounterOf(stream_[0]);
  ASSERT_NE(first, nullptr);
  EXPECT_EQ(CounterOf(stream_[0]), first);
  EXPECT_NE(CounterOf(stream_[1]), first);
  std::set<uint32_t*> captured = {first, CounterOf(stream_[1])};
  for (int i = 0; i < 2; ++i) {
    cudaGraph_t graph = nullptr;
    ASSERT_EQ(
        cudaStreamBeginCapture(stream_[0], cudaStreamCaptureModeThreadLocal),
        cudaSuccess);
    uint32_t* const counter = CounterOf(stream_[0]);
    EXPECT_EQ(CounterOf(stream_[0]), counter);
    EXPECT_TRUE(captured.insert(counter).second);
    ASSERT_EQ(cudaStreamEndCapture(stream_[0], &graph), cudaSuccess);
    cudaGraphDestroy(graph);
  }
  EXPECT_EQ(captured.count(nullptr), 0);
}

TEST(CausalAttentionBf16Test, AgreesWithALoopInDouble) {
  if (!HasDevice() || !IsHopper()) GTEST_SKIP() << "no Hopper";
  constexpr int64_t t = 200, heads = 4, kv_heads = 2, dim = 72;
  const std::vector<BFloat16> q = Numbers(t * heads * dim, 1);
  const std::vector<BFloat16> k = Numbers(t * kv_heads * dim, 2);
  const std::vector<BFloat16> v = Numbers(t * kv_heads * dim, 3);
  const auto device_q = DeviceArray<BFloat16>::CopyOf(q);
  const auto device_k = DeviceArray<BFloat16>::CopyOf(k);
  const auto device_v = DeviceArray<BFloat16>::CopyOf(v);
  const auto start = DeviceArray<int32_t>::CopyOf(std::vector<int32_t>{0, t});
  const auto o = DeviceArray<BFloat16>::Allocate(q.size());
  const auto lse = DeviceArray<float>::Allocate(t * heads);
  ASSERT_THAT(lse, IsOk());
  CausalAttentionArgs args;
  args.tokens = {t, nullptr};
  args.num_heads = heads;
  args.num_kv_heads = kv_heads;
  args.key_dim = args.value_dim = dim;
  args.scale = 0.1f;
  args.seq_start = start->data();
  args.num_sequences = 1;
  args.q = Data(*device_q);
  args.k = Data(*device_k);
  args.v = Data(*device_v);
  args.o = o->data();
  args.bf16_o = true;
  args.lse = lse->data();

  ASSERT_EQ(CausalAttention(args, /*stream=*/nullptr), cudaSuccess);
  const auto got = o->ToHost();
  const auto got_lse = lse->ToHost();

  ASSERT_THAT(got, IsOk());
  for (int64_t i = 0; i < t; ++i) {
    for (int64_t h = 0; h < heads; ++h) {
      double sum = 0;
      std::vector<double> want(dim);
      for (int64_t j = 0; j <= i; ++j) {
        const int64_t row = (j * kv_heads + h / 2) * dim;
        double score = 0;
        for (int64_t c = 0; c < dim; ++c) {
          score +=
              double{Widen(q[(i * heads + h) * dim + c])} * Widen(k[row + c]);
        }
        const double weight = std::exp(double{args.scale} * score);
        sum += weight;
        for (int64_t c = 0; c < dim; ++c) want[c] += weight * Widen(v[row + c]);
      }
      // Scores are F32 sums of up to 4 * 72.
      EXPECT_NEAR((*got_lse)[i * heads + h], std::log(sum), 1e-4);
      for (int64_t c = 0; c < dim; ++c) {
        // Weights are rounded; values are below 2.
        ExpectRounded((*got)[(i * heads + h) * dim + c], want[c] / sum,
                      2 * 0x1p-8);
      }
    }
  }
}

TEST(KernelArgsTest, ShapesWithoutTilesAreInvalid) {
  if (!HasDevice() || !IsHopper()) GTEST_SKIP() << "no Hopper";
  GroupedProductArgs product;
  product.rows = {4, nullptr};
  product.num_experts = 1;
  product.n = 8;
  product.k = 12;
  EXPECT_EQ(GroupedProduct(product, nullptr), cudaErrorInvalidValue);
  product.rows = {0, nullptr};
  EXPECT_EQ(GroupedProduct(product, nullptr), cudaSuccess);
  CausalAttentionArgs attention;
  attention.tokens = {4, nullptr};
  attention.num_sequences = 1;
  attention.key_dim = attention.value_dim = 136;
  EXPECT_EQ(CausalAttention(attention, nullptr), cudaErrorInvalidValue);
}

}  // namespace
}  // namespace strata::gpu
