#include "serving/engine/block_copier.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "core/cpu/all_kernels.h"
#include "core/cpu/cpu_backend.h"
#include "core/graph/builder.h"
#include "core/ops/attention.h"
#include "core/ops/packed_cache.h"
#include "core/quant/cache_format.h"
#include "core/tensor/dtype.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::ElementsAre;

// Two caches of four blocks of two rows, and a state that is none; the second
// cache in bytes.
class BlockCopierTest : public testing::TestWithParam<bool> {
 protected:
  BlockCopierTest() : backend_(1, AllCpuKernels()), state_(backend_) {
    GraphBuilder b;
    const ValueId rows = b.Input("rows", DType::kF32, {Static(1), Static(1)});
    const ValueId at = b.Input("at", DType::kI32, {Static(1)});
    for (const char* name : {"cache.0.k", "other"}) {
      CacheWrite(b, b.State(name, DType::kF32, {Static(8), Static(1)}), rows,
                 at);
    }
    const CacheOptions packed = {CacheFormat::kInt8};
    const int64_t bytes = CacheRowBytes(packed.format, 1, 1);
    PackedCacheWrite(
        b, b.State("cache.0.v", DType::kU8, {Static(8), Static(bytes)}), rows,
        at, /*num_heads=*/1, packed);
    EXPECT_THAT(state_.Declare(b.graph()), IsOk());
    for (int i = 0; i < 8; ++i) {
      for (const char* name : {"cache.0.k", "other"}) {
        Rows(name)[i] = static_cast<float>(i);
      }
      std::fill_n(Bytes() + i * bytes, bytes, static_cast<uint8_t>(i));
    }
  }

  uint8_t* Bytes() { return state_.Get("cache.0.v").as<uint8_t>(); }

  absl::Span<float> Rows(const char* name) {
    return state_.Get(name).span<float>();
  }

  CpuBackend backend_;
  StateStore state_;
};

TEST_P(BlockCopierTest, CopiesInOrderInAllCaches) {
  auto copier =
      BlockCopier::Create(backend_, state_, /*num_blocks=*/4, GetParam());
  ASSERT_THAT(copier, IsOk());

  ASSERT_THAT((*copier)->Copy({{0, 2}, {2, 3}}), IsOk());
  ASSERT_THAT((*copier)->Copy({}), IsOk());

  EXPECT_THAT(Rows("cache.0.k"), ElementsAre(0, 1, 2, 3, 0, 1, 0, 1));
  const int64_t bytes = state_.Get("cache.0.v").dim(1);
  for (int64_t i = 0; i < 8 * bytes; ++i) {
    EXPECT_EQ(Bytes()[i], i / bytes < 4 ? i / bytes : i / bytes % 2) << i;
  }
  EXPECT_THAT(Rows("other"), ElementsAre(0, 1, 2, 3, 4, 5, 6, 7));
}

INSTANTIATE_TEST_SUITE_P(HostAndProgram, BlockCopierTest, testing::Bool());

}  // namespace
}  // namespace strata
