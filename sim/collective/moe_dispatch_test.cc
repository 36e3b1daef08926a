#include "sim/collective/moe_dispatch.h"

#include <cmath>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sim/cluster/cluster.h"
#include "sim/cluster/load_cluster.h"
#include "sim/collective/collective.h"
#include "sim/collective/group.h"
#include "sim/engine/time.h"

namespace strata::sim {
namespace {

using ::testing::HasSubstr;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

MoeDispatchRequest DeepSeek(int num_ranks, MoeKernel kernel) {
  MoeDispatchRequest request;
  request.kernel = kernel;
  request.group.count = num_ranks;
  request.tokens_per_rank = kernel == MoeKernel::kNormal ? 4096 : 128;
  request.hidden = 7168;
  request.num_experts = 256;
  request.top_k = 8;
  return request;
}

MoeDispatchCost CostOn(const std::string& cluster_name,
                       const MoeDispatchRequest& request) {
  const Cluster cluster = *LoadCluster(cluster_name);
  const absl::StatusOr<MoeDispatchCost> cost =
      MoeDispatch(CollectiveModel(cluster), request);
  EXPECT_THAT(cost, IsOk());
  return cost.ok() ? *cost : MoeDispatchCost();
}

TEST(MoeDispatchTest, CountsGpusAndNodesThatATokenGoesTo) {
  const MoeDispatchCost cost =
      CostOn("h100x32", DeepSeek(32, MoeKernel::kNormal));

  // 8 of 256 experts without replacement; a GPU has 8, a node 64 of them.
  const auto none_of = [](int n) {
    double miss = 1;
    for (int i = 0; i < 8; ++i) miss *= (256.0 - n - i) / (256 - i);
    return miss;
  };
  // Doubles of 8 factors.
  EXPECT_NEAR(cost.gpus_per_token, 32 * (1 - none_of(8)), 1e-12);
  EXPECT_NEAR(cost.nodes_per_token, 3 * (1 - none_of(64)), 1e-12);
}

TEST(MoeDispatchTest, TheNodeLimitBoundsTheNodes) {
  MoeDispatchRequest request = DeepSeek(64, MoeKernel::kNormal);
  const MoeDispatchCost free = CostOn("h100x64", request);
  request.node_limit = 4;
  const MoeDispatchCost limited = CostOn("h100x64", request);

  EXPECT_LE(limited.nodes_per_token, 4);
  EXPECT_LT(limited.nodes_per_token, free.nodes_per_token);
  EXPECT_LT(limited.dispatch.time, free.dispatch.time);
  EXPECT_LT(limited.dispatch.inter_node_bytes_per_rank,
            free.dispatch.inter_node_bytes_per_rank);
  // As many as there are: no limit.
  request.node_limit = 8;
  EXPECT_EQ(CostOn("h100x64", request).dispatch.time, free.dispatch.time);
}

TEST(MoeDispatchTest, SendsATokenOnceToANode) {
  const MoeDispatchCost cost =
      CostOn("h100x32", DeepSeek(32, MoeKernel::kNormal));

  // A row of fp8 is 7168 bytes and 56 scales of 4 bytes. Half a byte of
  // roundings in 10^8.
  EXPECT_NEAR(cost.dispatch.inter_node_bytes_per_rank,
              4096 * (7168 + 224) * cost.nodes_per_token, 1);
  EXPECT_NEAR(cost.combine.inter_node_bytes_per_rank,
              4096 * 7168 * 2 * cost.nodes_per_token, 1);
  EXPECT_THAT(cost.dispatch.bottleneck, HasSubstr("NIC"));
}

// What DeepEP publishes for H800 (its README; 4096 tokens, or 128 in the low
// latency kernels; hidden 7168, top 8): bandwidth is rows of GPUs over time
// within a node, microseconds in the low latency table. The constants of
// NVLink were set from the first line of each, those of NICs from H100
// measurements, so this holds the rest.
TEST(MoeDispatchTest, IsNearTheFiguresThatDeepEpPublishes) {
  const auto near = [](Picoseconds time, double published_us, double share) {
    EXPECT_NEAR(ToMicroseconds(time), published_us, share * published_us);
  };
  const MoeDispatchCost node =
      CostOn("h800x8", DeepSeek(8, MoeKernel::kNormal));
  const double rows = 4096 * node.gpus_per_token;
  near(node.dispatch.time, rows * 7392 / 153e3, 0.1);
  near(node.combine.time, rows * 7168 * 2 / 158e3, 0.1);
  const MoeDispatchCost ep8 =
      CostOn("h800x8", DeepSeek(8, MoeKernel::kLowLatency));
  near(ep8.dispatch.time, 77, 0.1);
  near(ep8.combine.time, 114, 0.1);
  const MoeDispatchCost ep32 =
      CostOn("h800x32", DeepSeek(32, MoeKernel::kLowLatency));
  near(ep32.dispatch.time, 155, 0.1);
  near(ep32.combine.time, 273, 0.1);
  const MoeDispatchCost ep128 =
      CostOn("h800x128", DeepSeek(128, MoeKernel::kLowLatency));
  near(ep128.dispatch.time, 192, 0.1);
  near(ep128.combine.time, 369, 0.1);
}

TEST(MoeDispatchTest, ASkewedLoadTakesLonger) {
  MoeDispatchRequest request = DeepSeek(32, MoeKernel::kNormal);
  const MoeDispatchCost even = CostOn("h100x32", request);
  std::vector<double> load(256, 1);
  request.expert_load = load;
  EXPECT_EQ(CostOn("h100x32", request).dispatch.time, even.dispatch.time);

  // The last node's experts get three times what the others' do.
  for (int e = 192; e < 256; ++e) load[e] = 3;
  const MoeDispatchCost skewed = CostOn("h100x32", request);
  EXPECT_GT(skewed.combine.time, even.combine.time);
  EXPECT_THAT(skewed.dispatch.bottleneck, HasSubstr("of node 3, in"));
  EXPECT_THAT(skewed.combine.bottleneck, HasSubstr("of node 3, out"));

  request.kernel = MoeKernel::kLowLatency;
  request.tokens_per_rank = 1024;
  const MoeDispatchCost low_latency_skewed = CostOn("h100x32", request);
  request.expert_load = {};
  EXPECT_GT(low_latency_skewed.dispatch.time,
            CostOn("h100x32", request).dispatch.time);
}

TEST(MoeDispatchTest, FewerSmsTakeLonger) {
  MoeDispatchRequest request = DeepSeek(8, MoeKernel::kNormal);
  const Picoseconds saturated = CostOn("h100x8", request).dispatch.time;
  request.num_sms = 20;
  EXPECT_EQ(CostOn("h100x8", request).dispatch.time, saturated);
  request.num_sms = 4;
  const MoeDispatchCost few = CostOn("h100x8", request);
  EXPECT_GT(few.dispatch.time, 2 * saturated);
  EXPECT_THAT(few.dispatch.bottleneck, HasSubstr("SMs"));
}

TEST(MoeDispatchTest, NoTokensTakeNoTime) {
  MoeDispatchRequest request = DeepSeek(8, MoeKernel::kNormal);
  request.tokens_per_rank = 0;

  EXPECT_EQ(CostOn("h100x8", request).dispatch.time, 0);
}

TEST(MoeDispatchTest, SaysWhatIsWrong) {
  const Cluster cluster = *LoadCluster("h100x16");
  const CollectiveModel model(cluster);
  const auto dispatch = [&](auto change) {
    MoeDispatchRequest request = DeepSeek(16, MoeKernel::kNormal);
    change(request);
    return MoeDispatch(model, request).status();
  };
  EXPECT_THAT(
      dispatch([](auto& r) { r.num_experts = 250; }),
      StatusIs(kInvalid, HasSubstr("250 experts do not divide over 16")));
  EXPECT_THAT(dispatch([](auto& r) { r.num_experts = 0; }),
              StatusIs(kInvalid, HasSubstr("0 experts")));
  EXPECT_THAT(dispatch([](auto& r) { r.top_k = 0; }),
              StatusIs(kInvalid, HasSubstr("top_k is 0; want 1 to 256")));
  EXPECT_THAT(dispatch([](auto& r) { r.top_k = 257; }),
              StatusIs(kInvalid, HasSubstr("top_k is 257")));
  EXPECT_THAT(dispatch([](auto& r) { r.node_limit = 3; }),
              StatusIs(kInvalid, HasSubstr("node_limit is 3; want 0 to 2")));
  EXPECT_THAT(dispatch([](auto& r) { r.tokens_per_rank = -1; }),
              StatusIs(kInvalid, HasSubstr("tokens_per_rank is -1")));
  EXPECT_THAT(dispatch([](auto& r) { r.hidden = 0; }),
              StatusIs(kInvalid, HasSubstr("hidden is 0")));
  EXPECT_THAT(dispatch([](auto& r) { r.dispatch_bytes = 9; }),
              StatusIs(kInvalid, HasSubstr("dispatch_bytes is 9")));
  EXPECT_THAT(dispatch([](auto& r) { r.combine_bytes = 0; }),
              StatusIs(kInvalid, HasSubstr("combine_bytes is 0")));
  EXPECT_THAT(dispatch([](auto& r) { r.num_sms = -1; }),
              StatusIs(kInvalid, HasSubstr("num_sms is -1")));
  EXPECT_THAT(dispatch([](auto& r) { r.group.count = 17; }),
              StatusIs(kInvalid, HasSubstr("17 ranks")));
  const std::vector<double> few(255, 1);
  EXPECT_THAT(dispatch([&](auto& r) { r.expert_load = few; }),
              StatusIs(kInvalid, HasSubstr("expert_load is 255; want 256")));
  std::vector<double> bad(256, 1);
  bad[7] = -2;
  EXPECT_THAT(dispatch([&](auto& r) { r.expert_load = bad; }),
              StatusIs(kInvalid, HasSubstr("expert_load[7] is -2")));
  const Cluster ampere = *LoadCluster("a100");
  EXPECT_THAT(
      MoeDispatch(CollectiveModel(ampere), DeepSeek(8, MoeKernel::kNormal)),
      StatusIs(kInvalid, HasSubstr("\"a100\", which has no")));
}

}  // namespace
}  // namespace strata::sim
