#include "cuda/ops/decode_attention.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/tensor/bfloat16.h"
#include "core/testing/status_matchers.h"
#include "cuda/runtime/device_array.h"
#include "cuda/runtime/status.h"
#include "cuda/testing/test_inputs.h"
#include "gtest/gtest.h"

// Caches in BF16, which no operator has; those in F32 are held to the CPU in
// attention_test.cc.

namespace strata::gpu {
namespace {

struct Narrow {
  std::vector<int32_t> positions;  // Of each token, each its own sequence.
  int heads, kv_heads, dim;
  int64_t window;
};
std::string NarrowName(const testing::TestParamInfo<Narrow>& info) {
  const Narrow& p = info.param;
  return absl::StrCat(info.index, "_heads", p.heads, "_of", p.kv_heads, "_dim",
                      p.dim, "_window", p.window);
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

absl::StatusOr<std::vector<float>> OnDevice(const Narrow& p, int64_t stride,
                                            const std::vector<float>& q,
                                            const std::vector<float>& k,
                                            const std::vector<float>& v) {
  const auto tokens = static_cast<int64_t>(p.positions.size());
  std::vector<int32_t> first_row(tokens);
  for (int64_t i = 0; i < tokens; ++i) {
    first_row[i] = static_cast<int32_t>(i * stride);
  }
  ASSIGN_OR_RETURN(const auto device_q, DeviceArray<float>::CopyOf(q));
  ASSIGN_OR_RETURN(const auto device_k,
                   DeviceArray<BFloat16>::CopyOf(Rounded(k)));
  ASSIGN_OR_RETURN(const auto device_v,
                   DeviceArray<BFloat16>::CopyOf(Rounded(v)));
  ASSIGN_OR_RETURN(const auto position,
                   DeviceArray<int32_t>::CopyOf(p.positions));
  ASSIGN_OR_RETURN(const auto first, DeviceArray<int32_t>::CopyOf(first_row));
  ASSIGN_OR_RETURN(const auto fault,
                   DeviceArray<Fault>::CopyOf(std::vector<Fault>(1)));
  ASSIGN_OR_RETURN(const auto o, DeviceArray<float>::Allocate(q.size()));
  DecodeAttentionArgs args;
  args.tokens = {tokens, nullptr};
  args.num_heads = p.heads;
  args.num_kv_heads = p.kv_heads;
  args.dim = p.dim;
  args.scale = static_cast<float>(1 / std::sqrt(p.dim));
  args.window = p.window;
  args.max_keys = stride;
  args.q = device_q.data();
  args.k = device_k.data();
  args.v = device_v.data();
  args.bf16_cache = true;
  args.places.position = position.data();
  args.places.first_row = first.data();
  args.places.slots = tokens * stride;
  const int64_t pieces = DecodePieces(args);
  ASSIGN_OR_RETURN(const auto partial,
                   DeviceArray<float>::Allocate(pieces * p.dim));
  ASSIGN_OR_RETURN(const auto max, DeviceArray<float>::Allocate(pieces));
  ASSIGN_OR_RETURN(const auto sum, DeviceArray<float>::Allocate(pieces));
  args.partial = partial.data();
  args.max = max.data();
  args.sum = sum.data();
  args.o = o.data();
  args.fault = {fault.data(), 0};
  RETURN_IF_ERROR(ToStatus(DecodeAttention(args, /*stream=*/nullptr)));
  return o.ToHost();
}

TEST_P(NarrowCacheTest, AgreesWithALoopInDouble) {
  const Narrow& p = GetParam();
  const auto tokens = static_cast<int64_t>(p.positions.size());
  const int64_t stride =
      1 + *std::max_element(p.positions.begin(), p.positions.end());
  const std::vector<float> q = Numbers(tokens * p.heads * p.dim, 1);
  const std::vector<float> k = Numbers(tokens * stride * p.kv_heads * p.dim, 2);
  const std::vector<float> v = Numbers(tokens * stride * p.kv_heads * p.dim, 3);

  const auto got = OnDevice(p, stride, q, k, v);

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

// One, some and all heads a KV head, each width; positions about a warp's keys,
// a block's and a piece's.
INSTANTIATE_TEST_SUITE_P(
    Shapes, NarrowCacheTest,
    testing::Values(Narrow{{0}, 1, 1, 64, 0}, Narrow{{15, 16, 31}, 4, 4, 64, 0},
                    Narrow{{63, 64, 65, 700}, 8, 2, 128, 0},
                    Narrow{{129, 7}, 6, 2, 256, 0},
                    Narrow{{300, 2}, 16, 2, 64, 0},
                    Narrow{{500, 69}, 8, 1, 128, 70}),
    NarrowName);

}  // namespace
}  // namespace strata::gpu
