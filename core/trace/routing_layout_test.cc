#include "core/trace/routing_layout.h"

#include "absl/status/status.h"
#include "core/testing/status_matchers.h"
#include "core/trace/routing_trace.pb.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::HasSubstr;

void AddGate(int layer, int tier, uint32_t num_experts, int k_max,
             RoutingTraceHeader& header) {
  RoutingGate& gate = *header.add_gates();
  gate.set_layer(layer);
  gate.set_tier(tier);
  gate.set_num_experts(num_experts);
  gate.set_k_max(k_max);
}

RoutingTraceHeader Header() {
  RoutingTraceHeader header;
  header.set_format_version(kRoutingTraceVersion);
  header.set_num_ranks(3);
  AddGate(1, 0, 4, 2, header);
  AddGate(1, 1, 8, 2, header);
  AddGate(3, 0, 256, 8, header);
  return header;
}

TEST(RoutingLayoutTest, PlacesEachGatesRowsBehindThoseBefore) {
  const auto layout = RoutingLayout::Create(Header());

  ASSERT_THAT(layout, IsOk());
  ASSERT_EQ(layout->gates.size(), 3u);
  EXPECT_EQ(layout->gates[1].first_row, 3 * 4);
  EXPECT_EQ(layout->gates[2].first_row, 3 * (4 + 8));
  EXPECT_EQ(layout->num_rows, 3 * (4 + 8 + 256));
  EXPECT_FALSE(layout->gates[0].is_last_tier);
  EXPECT_TRUE(layout->gates[1].is_last_tier);
  EXPECT_TRUE(layout->gates[2].is_last_tier);
  EXPECT_EQ(layout->gates[1].id_bytes(), 1);
  EXPECT_EQ(layout->gates[2].id_bytes(), 2);  // 256 and "none" are 257.
}

void ExpectError(const RoutingTraceHeader& header, const char* words) {
  EXPECT_THAT(RoutingLayout::Create(header),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(words)));
}

TEST(RoutingLayoutTest, SaysWhichGateIsWrong) {
  RoutingTraceHeader header = Header();
  header.mutable_gates(1)->set_num_experts(0);
  ExpectError(header, "gate 1.1 has 0 experts; want 1 to 65535");
  header = Header();
  header.mutable_gates(1)->set_num_experts(65536);
  ExpectError(header, "gate 1.1 has 65536 experts");
  header = Header();
  header.mutable_gates(1)->set_k_max(9);
  ExpectError(header, "gate 1.1 chooses up to 9 of 8 experts; want 1 to 8");
  header = Header();
  header.mutable_gates(1)->set_k_max(0);
  ExpectError(header, "chooses up to 0");
}

TEST(RoutingLayoutTest, WantsGatesByLayerThenTier) {
  RoutingTraceHeader header = Header();
  header.mutable_gates(1)->set_tier(2);
  ExpectError(header, "gate 1.2 is out of order");
  header = Header();
  header.mutable_gates(0)->set_tier(1);
  ExpectError(header, "gate 1.1 is out of order");
  header = Header();
  header.mutable_gates(2)->set_layer(1);
  ExpectError(header, "gate 1.0 is out of order");
  header = Header();
  header.mutable_gates(2)->set_layer(0);
  ExpectError(header, "gate 0.0 is out of order");
}

TEST(RoutingLayoutTest, WantsItsVersionGatesAndRanks) {
  RoutingTraceHeader header = Header();
  header.set_format_version(2);
  ExpectError(header, "format version is 2; this program reads version 1");
  header = Header();
  header.set_num_ranks(0);
  ExpectError(header, "0 ranks");
  header = Header();
  header.clear_gates();
  ExpectError(header, "no gate");
  header = Header();
  header.set_num_ranks(4294967295u);
  ExpectError(header, "4294967295 ranks are over 67108864 counts a record");
}

}  // namespace
}  // namespace strata
