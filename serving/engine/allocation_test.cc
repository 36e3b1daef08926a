// The promise that decoding a token allocates nothing.

#include <cstdint>
#include <optional>
#include <vector>

#include "core/testing/allocation_counter.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "serving/engine/generator.h"
#include "serving/engine/tiny_models.h"

namespace strata {
namespace {

class AllocationTest : public ::testing::TestWithParam<ModelConfig> {};

// From the second token, when all room has been made, to the last: 40
// steps, each a run of the decoder, a draw, and the token's way to the caller.
TEST_P(AllocationTest, ATokenAllocatesNothing) {
  for (const int num_threads : {1, 3}) {
    Model model(GetParam(), num_threads);
    GenerateOptions options;
    options.max_new_tokens = 42;
    options.sampling.top_k = 20;
    options.sampling.top_p = 0.9;
    std::optional<AllocationCounter> allocations;
    int64_t count = -1;
    int64_t num_tokens = 0;

    const auto tokens =
        model->Generate({1, 2, 3, 4, 5}, options, [&](int32_t token) {
          ++num_tokens;
          if (num_tokens == 2) allocations.emplace();
          if (num_tokens == 42) count = allocations->count();
          return true;
        });

    ASSERT_THAT(tokens, IsOk());
    EXPECT_EQ(count, 0) << num_threads << " threads; the first has "
                        << allocations->first_bytes() << " bytes";
  }
}

INSTANTIATE_TEST_SUITE_P(Models, AllocationTest,
                         ::testing::Values(Dense(), Flat(), SigmoidGroups(),
                                           Hierarchical(), Latent()),
                         [](const auto& info) { return info.param.name(); });

}  // namespace
}  // namespace strata
