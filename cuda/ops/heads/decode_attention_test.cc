#include "cuda/ops/heads/decode_attention.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/tensor/bfloat16.h"
#include "core/testing/status_matchers.h"
#include "cuda/runtime/device_array.h"
#include "cuda/runtime/status.h"
#include "cuda/testing/test_inputs.h"
#include "cuda_runtime_api.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

// Caches in BF16, which no operator has; those in F32 are held to the CPU in
// attention_test.cc.

namespace strata::gpu {
namespace {

struct Narrow {
  std::vector<int32_t> positions;  // Of each token, each its own sequence.
  int heads, kv_heads, dim;
  int64_t window;
  int64_t block_size = 0;  // Of a table; 0: keys of a token in rows.
};
std::string NarrowName(const testing::TestParamInfo<Narrow>& info) {
  const Narrow& p = info.param;
  return absl::StrCat(
      info.index, "_heads", p.heads, "_of", p.kv_heads, "_dim", p.dim,
      "_window", p.window,
      p.block_size > 0 ? absl::StrCat("_blocks_of_", p.block_size) : "");
}
using NarrowCacheTest = DeviceTest<Narrow>;

std::vector<float> Numbers(int64_t n, int seed) {
  const std::vector<int32_t> ints = RandomInts(n, -256, 256, seed);
  std::vector<float> numbers(n);
  for (int64_t i = 0; i < n; ++i) numbers[i] = ints[i] / 128.f;  // Are BF16.
  return numbers;
}

std::vector<BFloat16> Rounded(const std::vector<float>& x) {
  std::vector<BFloat16> y;
  for (const float number : x) y.push_back(RoundToBFloat16(number));
  return y;
}

// Of one head of a token, over rows [first, first + count) of the caches.
std::vector<double> Attend(const Narrow& p, const float* q, int kv_head,
                           const std::vector<float>& k,
                           const std::vector<float>& v, int64_t first,
                           int64_t count) {
  const auto at = [&](int64_t j) {
    return ((first + j) * p.kv_heads + kv_head) * p.dim;
  };
  std::vector<double> score(count), o(p.dim);
  for (int64_t j = 0; j < count; ++j) {
    for (int c = 0; c < p.dim; ++c) score[j] += double{q[c]} * k[at(j) + c];
    score[j] /= std::sqrt(p.dim);
  }
  const double largest = *std::max_element(score.begin(), score.end());
  double sum = 0;
  for (int64_t j = 0; j < count; ++j) {
    const double weight = std::exp(score[j] - largest);
    sum += weight;
    for (int c = 0; c < p.dim; ++c) o[c] += weight * v[at(j) + c];
  }
  for (double& x : o) x /= sum;
  return o;
}

// Rows of each sequence in a cache: those of all keys that any has, in whole
// blocks where there is a table.
int64_t StrideOf(const Narrow& p) {
  const int64_t longest =
      1 + *std::max_element(p.positions.begin(), p.positions.end());
  const int64_t block = std::max<int64_t>(1, p.block_size);
  return (longest + block - 1) / block * block;
}

// The blocks of all sequences, [sequence, stride / block_size], scattered: the
// first blocks of all lie behind their second ones, and so on.
std::vector<int32_t> TableOf(const Narrow& p) {
  const auto tokens = static_cast<int64_t>(p.positions.size());
  const int64_t blocks = StrideOf(p) / p.block_size;
  std::vector<int32_t> table;
  for (int64_t s = 0; s < tokens; ++s) {
    for (int64_t i = 0; i < blocks; ++i) {
      table.push_back(static_cast<int32_t>((blocks - 1 - i) * tokens + s));
    }
  }
  return table;
}

// A cache, its rows where the table has them.
std::vector<BFloat16> Placed(const Narrow& p, const std::vector<float>& rows) {
  const std::vector<BFloat16> rounded = Rounded(rows);
  if (p.block_size == 0) return rounded;
  const int64_t of_block = p.block_size * p.kv_heads * p.dim;
  std::vector<BFloat16> placed(rounded.size());
  int64_t from = 0;
  for (const int32_t block : TableOf(p)) {
    std::copy_n(rounded.begin() + from, of_block,
                placed.begin() + block * of_block);
    from += of_block;
  }
  return placed;
}

// What a launch is about, in device memory.
struct Launched {
  DeviceArray<float> q, partial, max, sum, o;
  DeviceArray<BFloat16> k, v;
  DeviceArray<int32_t> position, place, sequence, ended;
  DeviceArray<Fault> fault;
  DecodeAttentionArgs args;
};

absl::StatusOr<Launched> Prepare(const Narrow& p, const std::vector<float>& q,
                                 const std::vector<float>& k,
                                 const std::vector<float>& v,
                                 const std::vector<int32_t>& table) {
  const auto tokens = static_cast<int64_t>(p.positions.size());
  const int64_t stride = StrideOf(p);
  std::vector<int32_t> first_row(tokens), sequence(tokens);
  for (int64_t i = 0; i < tokens; ++i) {
    first_row[i] = static_cast<int32_t>(i * stride);
    sequence[i] = static_cast<int32_t>(i);
  }
  DecodeAttentionArgs args;
  args.tokens = {tokens, nullptr};
  args.num_heads = p.heads;
  args.num_kv_heads = p.kv_heads;
  args.dim = p.dim;
  args.scale = static_cast<float>(1 / std::sqrt(p.dim));
  args.window = p.window;
  args.max_keys = stride;
  args.bf16_cache = true;
  args.places.slots = tokens * stride;
  const int64_t pieces = DecodePieces(args);
  const std::vector<int32_t> zeros(DecodeCounters(args));
  ASSIGN_OR_RETURN(auto device_q, DeviceArray<float>::CopyOf(q));
  ASSIGN_OR_RETURN(auto partial, DeviceArray<float>::Allocate(pieces * p.dim));
  ASSIGN_OR_RETURN(auto max, DeviceArray<float>::Allocate(pieces));
  ASSIGN_OR_RETURN(auto sum, DeviceArray<float>::Allocate(pieces));
  ASSIGN_OR_RETURN(auto o, DeviceArray<float>::Allocate(q.size()));
  ASSIGN_OR_RETURN(auto device_k, DeviceArray<BFloat16>::CopyOf(Placed(p, k)));
  ASSIGN_OR_RETURN(auto device_v, DeviceArray<BFloat16>::CopyOf(Placed(p, v)));
  ASSIGN_OR_RETURN(auto position, DeviceArray<int32_t>::CopyOf(p.positions));
  ASSIGN_OR_RETURN(auto place, DeviceArray<int32_t>::CopyOf(
                                   p.block_size > 0 ? table : first_row));
  ASSIGN_OR_RETURN(auto device_sequence,
                   DeviceArray<int32_t>::CopyOf(sequence));
  ASSIGN_OR_RETURN(auto ended, DeviceArray<int32_t>::CopyOf(zeros));
  ASSIGN_OR_RETURN(auto fault,
                   DeviceArray<Fault>::CopyOf(std::vector<Fault>(1)));
  Launched made = {std::move(device_q),
                   std::move(partial),
                   std::move(max),
                   std::move(sum),
                   std::move(o),
                   std::move(device_k),
                   std::move(device_v),
                   std::move(position),
                   std::move(place),
                   std::move(device_sequence),
                   std::move(ended),
                   std::move(fault),
                   args};
  made.args.q = made.q.data();
  made.args.k = made.k.data();
  made.args.v = made.v.data();
  made.args.places.position = made.position.data();
  if (p.block_size > 0) {
    made.args.places.table = made.place.data();
    made.args.places.table_rows = tokens;
    made.args.places.max_blocks = stride / p.block_size;
    made.args.places.block_size = p.block_size;
    made.args.places.sequence = made.sequence.data();
  } else {
    made.args.places.first_row = made.place.data();
  }
  made.args.partial = made.partial.data();
  made.args.max = made.max.data();
  made.args.sum = made.sum.data();
  made.args.ended = made.ended.data();
  made.args.o = made.o.data();
  made.args.fault = {made.fault.data(), 0};
  return made;
}

std::vector<int32_t> TableOrNone(const Narrow& p) {
  return p.block_size > 0 ? TableOf(p) : std::vector<int32_t>();
}

TEST_P(NarrowCacheTest, AgreesWithALoopInDouble) {
  const Narrow& p = GetParam();
  const auto tokens = static_cast<int64_t>(p.positions.size());
  const int64_t stride = StrideOf(p);
  const std::vector<float> q = Numbers(tokens * p.heads * p.dim, 1);
  const std::vector<float> k = Numbers(tokens * stride * p.kv_heads * p.dim, 2);
  const std::vector<float> v = Numbers(tokens * stride * p.kv_heads * p.dim, 3);

  const auto launched = Prepare(p, q, k, v, TableOrNone(p));
  ASSERT_THAT(launched, IsOk());
  ASSERT_THAT(ToStatus(DecodeAttention(launched->args, /*stream=*/nullptr)),
              IsOk());

  const auto got = launched->o.ToHost();
  ASSERT_THAT(got, IsOk());
  for (int64_t i = 0; i < tokens; ++i) {
    const int64_t keys = p.positions[i] + 1;
    const int64_t seen = p.window > 0 ? std::min(keys, p.window) : keys;
    for (int h = 0; h < p.heads; ++h) {
      const int64_t at = (i * p.heads + h) * p.dim;
      const std::vector<double> want =
          Attend(p, q.data() + at, h / (p.heads / p.kv_heads), k, v,
                 i * stride + keys - seen, seen);
      for (int c = 0; c < p.dim; ++c) {
        // Scores are sums of dim terms of at most 4 / sqrt(dim), values
        // below 2.
        ASSERT_NEAR((*got)[at + c], want[c], 0x1p-23 * (64 + 4. * p.dim + seen))
            << "token " << i << " head " << h << " column " << c;
      }
    }
  }
}

// A step is a captured graph that is launched over and over: what joins pieces
// has to be left as it was found.
TEST_P(NarrowCacheTest, RepeatsInAGraphBitForBit) {
  const Narrow& p = GetParam();
  const auto tokens = static_cast<int64_t>(p.positions.size());
  const int64_t rows = tokens * StrideOf(p) * p.kv_heads * p.dim;
  const auto launched =
      Prepare(p, Numbers(tokens * p.heads * p.dim, 1), Numbers(rows, 2),
              Numbers(rows, 3), TableOrNone(p));
  ASSERT_THAT(launched, IsOk());
  cudaStream_t stream;
  ASSERT_EQ(cudaStreamCreate(&stream), cudaSuccess);
  ASSERT_EQ(DecodeAttention(launched->args, stream), cudaSuccess);
  const auto once = launched->o.ToHost();
  ASSERT_THAT(once, IsOk());

  ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal),
            cudaSuccess);
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(DecodeAttention(launched->args, stream), cudaSuccess);
  }
  cudaGraph_t graph;
  ASSERT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
  cudaGraphExec_t executable;
  ASSERT_EQ(cudaGraphInstantiate(&executable, graph, 0), cudaSuccess);
  ASSERT_EQ(cudaMemsetAsync(launched->o.data(), 0xff,
                            launched->o.size() * sizeof(float), stream),
            cudaSuccess);
  for (int i = 0; i < 2; ++i) {
    ASSERT_EQ(cudaGraphLaunch(executable, stream), cudaSuccess);
  }
  ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);

  const auto again = launched->o.ToHost();
  ASSERT_THAT(again, IsOk());
  EXPECT_EQ(*again, *once);
  const auto ended = launched->ended.ToHost();
  ASSERT_THAT(ended, IsOk());
  EXPECT_THAT(*ended, testing::Each(0));
  cudaGraphExecDestroy(executable);
  cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);
}

TEST(DecodeFaultTest, BlocksOutsideTheCacheAreNamed) {
  if (!HasDevice()) GTEST_SKIP() << "no GPU";
  const Narrow p = {{40}, 2, 1, 64, 0, 16};
  std::vector<int32_t> table = TableOf(p);
  table[1] = static_cast<int32_t>(table.size());  // One behind the last.
  const std::vector<float> rows = Numbers(StrideOf(p) * p.dim, 2);

  const auto launched =
      Prepare(p, Numbers(p.heads * p.dim, 1), rows, rows, table);
  ASSERT_THAT(launched, IsOk());
  ASSERT_EQ(DecodeAttention(launched->args, /*stream=*/nullptr), cudaSuccess);

  const auto fault = launched->fault.ToHost();
  ASSERT_THAT(fault, IsOk());
  EXPECT_EQ((*fault)[0].kind, static_cast<int32_t>(FaultKind::kCacheRow));
  EXPECT_EQ((*fault)[0].value, static_cast<int64_t>(table.size()) * 16);
}

// `n` positions up to `last`, all over it.
std::vector<int32_t> Spread(int n, int32_t last) {
  std::vector<int32_t> positions;
  for (int i = 0; i < n; ++i) positions.push_back(i * 37 % (last + 1));
  return positions;
}

// One, some and all heads a KV head, each width; positions about a warp's keys,
// a block's, a piece's (64) and 64 pieces; more tokens than blocks at a time.
INSTANTIATE_TEST_SUITE_P(
    Shapes, NarrowCacheTest,
    testing::Values(Narrow{{0}, 1, 1, 64, 0}, Narrow{{15, 16, 31}, 4, 4, 64, 0},
                    Narrow{{63, 64, 65, 700}, 8, 2, 128, 0},
                    Narrow{{127, 128, 129, 7}, 6, 2, 256, 0},
                    Narrow{{300, 2}, 16, 2, 64, 0},
                    Narrow{{500, 69}, 8, 1, 128, 70},
                    Narrow{{4095}, 8, 2, 64, 0}, Narrow{{4096}, 4, 1, 128, 0},
                    Narrow{{1000, 191}, 5, 1, 256, 0},
                    Narrow{{777}, 3, 1, 128, 0}, Narrow{{900}, 8, 1, 256, 0},
                    Narrow{Spread(270, 200), 8, 4, 64, 0}),
    NarrowName);
INSTANTIATE_TEST_SUITE_P(
    Tables, NarrowCacheTest,
    testing::Values(Narrow{{63, 64, 65, 700}, 8, 2, 128, 0, 16},
                    Narrow{{0, 300, 23, 24}, 4, 2, 64, 0, 24},
                    Narrow{{500, 69}, 8, 1, 128, 70, 8},
                    Narrow{{200, 10}, 2, 1, 256, 0, 1},
                    Narrow{{4100}, 4, 1, 128, 0, 64},
                    Narrow{Spread(270, 200), 8, 4, 64, 0, 16}),
    NarrowName);

}  // namespace
}  // namespace strata::gpu
