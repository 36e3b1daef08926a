#include "serving/engine/block_copier.h"

#include <cstdint>
#include <vector>

#include "core/cpu/all_kernels.h"
#include "core/cpu/cpu_backend.h"
#include "core/graph/builder.h"
#include "core/ops/attention.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::ElementsAre;

// Two caches of four blocks of two rows, and a state that is none.
class BlockCopierTest : public testing::TestWithParam<bool> {
 protected:
  BlockCopierTest() : backend_(1, AllCpuKernels()), state_(backend_) {
    GraphBuilder b;
    const ValueId rows = b.Input("rows", DType::kF32, {Static(1), Static(1)});
    const ValueId at = b.Input("at", DType::kI32, {Static(1)});
    for (const char* name : {"cache.0.k", "cache.0.v", "other"}) {
      CacheWrite(b, b.State(name, DType::kF32, {Static(8), Static(1)}), rows,
                 at);
    }
    EXPECT_THAT(state_.Declare(b.graph()), IsOk());
    for (const char* name : {"cache.0.k", "cache.0.v", "other"}) {
      for (int i = 0; i < 8; ++i) Rows(name)[i] = static_cast<float>(i);
    }
  }

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
  EXPECT_THAT(Rows("cache.0.v"), ElementsAre(0, 1, 2, 3, 0, 1, 0, 1));
  EXPECT_THAT(Rows("other"), ElementsAre(0, 1, 2, 3, 4, 5, 6, 7));
}

INSTANTIATE_TEST_SUITE_P(HostAndProgram, BlockCopierTest, testing::Bool());

}  // namespace
}  // namespace strata
