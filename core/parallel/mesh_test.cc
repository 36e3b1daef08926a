#include "core/parallel/mesh.h"

#include <memory>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "core/parallel/communicator.h"
#include "core/parallel/thread_communicator.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// The world ranks of a group of each rank, by all-gather.
std::vector<std::vector<int>> Members(const MeshShape& shape,
                                      const char* name) {
  const auto world = ThreadCommunicators(shape.size(), absl::Seconds(60));
  std::vector<std::vector<int>> members(shape.size());
  std::vector<std::thread> threads;
  for (const auto& rank : world) {
    threads.emplace_back([&, rank = rank.get()] {
      const auto mesh = Mesh::Create(*rank, shape);
      ASSERT_THAT(mesh, IsOk());
      Communicator& group = *(*mesh)->Find(name);
      std::vector<int> me = {rank->rank()}, all(group.size());
      ASSERT_THAT(group.AllGather(PayloadOf(absl::MakeSpan(me)),
                                  std::vector<int64_t>(group.size(), 1),
                                  PayloadOf(absl::MakeSpan(all))),
                  IsOk());
      members[rank->rank()] = all;
    });
  }
  for (std::thread& thread : threads) thread.join();
  return members;
}

TEST(MeshTest, GroupsRanksWithExpertsInnermost) {
  const MeshShape shape = {/*dp=*/2, /*ep=*/2, /*pp=*/2};
  const std::vector<int> a = {0, 1, 2, 3}, b = {4, 5, 6, 7};
  EXPECT_THAT(Members(shape, "batch"), ElementsAre(a, a, a, a, b, b, b, b));
  const auto dp = Members(shape, "dp"), ep = Members(shape, "ep");
  const auto pp = Members(shape, "pp");
  EXPECT_THAT(dp[0], ElementsAre(0, 2));
  EXPECT_THAT(dp[7], ElementsAre(5, 7));
  EXPECT_THAT(ep[2], ElementsAre(2, 3));
  EXPECT_THAT(ep[5], ElementsAre(4, 5));
  EXPECT_THAT(pp[1], ElementsAre(1, 5));
  EXPECT_THAT(pp[6], ElementsAre(2, 6));
  EXPECT_THAT(Members(shape, "world")[3], ElementsAre(0, 1, 2, 3, 4, 5, 6, 7));
}

TEST(MeshTest, TheEndsOfAPipelineAreAGroup) {
  const MeshShape shape = {/*dp=*/1, /*ep=*/2, /*pp=*/3};
  const auto world = ThreadCommunicators(shape.size(), absl::Seconds(60));
  std::vector<std::thread> threads;
  for (const auto& rank : world) {
    threads.emplace_back([&, rank = rank.get()] {
      const auto mesh = Mesh::Create(*rank, shape);
      ASSERT_THAT(mesh, IsOk());
      Communicator* const ends = (*mesh)->Find("ends");
      const bool is_end = rank->rank() < 2 || rank->rank() >= 4;
      ASSERT_EQ(ends != nullptr, is_end);
      if (!is_end) return;
      EXPECT_EQ(ends->size(), 2);
      EXPECT_EQ(ends->rank(), rank->rank() / 4);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(MeshTest, StagesOfAMirroredPipelineAreOnTwoRanks) {
  const MeshShape shape = {/*dp=*/1, /*ep=*/2, /*pp=*/4, /*mirrored=*/true};
  const auto mirror = Members(shape, "mirror");
  EXPECT_THAT(mirror[0], ElementsAre(0, 6));
  EXPECT_THAT(mirror[7], ElementsAre(1, 7));
  EXPECT_THAT(mirror[3], ElementsAre(3, 5));
  EXPECT_THAT(mirror[4], ElementsAre(2, 4));
}

TEST(MeshTest, WantsAsManyRanksAsItHas) {
  const auto world = ThreadCommunicators(1, absl::Seconds(60));
  EXPECT_THAT(Mesh::Create(*world[0], {2, 3, 1}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("the mesh dp 2 x ep 3 x pp 1 has 6 ranks; 1 "
                                 "were started")));
  EXPECT_THAT(Mesh::Create(*world[0], {1, 0, 1}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("want 1 or more of each")));
  EXPECT_THAT(Mesh::Create(*world[0], {1, 1, 1, /*mirrored=*/true}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("pp is 1; want an even number")));
}

TEST(MeshTest, KnowsNoOtherGroup) {
  const auto world = ThreadCommunicators(1, absl::Seconds(60));
  const auto mesh = Mesh::Create(*world[0], {});
  ASSERT_THAT(mesh, IsOk());
  EXPECT_EQ((*mesh)->Find("tp"), nullptr);
}

}  // namespace
}  // namespace strata
