#include "core/parallel/agree.h"

#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "core/parallel/thread_communicator.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

// What each of three ranks hears when rank r gives `given[r]`.
std::vector<absl::Status> Heard(const std::vector<absl::Status>& given) {
  const auto world = ThreadCommunicators(3, absl::Seconds(20));
  std::vector<absl::Status> heard(3);
  std::vector<std::thread> threads;
  for (int r = 0; r < 3; ++r) {
    threads.emplace_back([&, r] {
      const auto agreement = Agree(given[r], *world[r]);
      EXPECT_THAT(agreement, IsOk());
      if (agreement.ok()) heard[r] = agreement->status;
    });
  }
  for (std::thread& thread : threads) thread.join();
  return heard;
}

TEST(AgreeTest, AllAreFineOrAllHearOfTheFirstThatIsNot) {
  const absl::Status ok;
  for (const absl::Status& status : Heard({ok, ok, ok})) {
    EXPECT_THAT(status, IsOk());
  }
  for (const absl::Status& status :
       Heard({ok, absl::NotFoundError("no file"), absl::InternalError("x")})) {
    EXPECT_EQ(status, absl::NotFoundError("rank 1: no file"));
  }
  for (const absl::Status& status :
       Heard({absl::InternalError(""), ok, absl::NotFoundError("no file")})) {
    EXPECT_EQ(status, absl::InternalError(""));
  }
}

TEST(AgreeTest, ATextReachesAll) {
  const auto world = ThreadCommunicators(3, absl::Seconds(20));
  std::vector<std::thread> threads;
  for (int r = 0; r < 3; ++r) {
    threads.emplace_back([&, r] {
      const std::string mine(static_cast<size_t>(10 * r), 'a');
      EXPECT_EQ(*TextOf(2, mine, *world[r]), std::string(20, 'a'));
      EXPECT_EQ(*TextOf(0, mine, *world[r]), "");
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(AgreeTest, TheTextsOfAllReachAll) {
  const auto world = ThreadCommunicators(3, absl::Seconds(20));
  std::vector<std::thread> threads;
  for (int r = 0; r < 3; ++r) {
    threads.emplace_back([&, r] {
      const std::string mine(static_cast<size_t>(100 * r), 'a');
      const auto texts = TextsOf(mine, *world[r]);
      ASSERT_THAT(texts, IsOk());
      EXPECT_EQ(*texts, (std::vector<std::string>{"", std::string(100, 'a'),
                                                  std::string(127, 'a')}));
      const auto hosts = HostsOf(*world[r]);
      ASSERT_THAT(hosts, IsOk());
      EXPECT_EQ(*hosts, std::vector<std::string>(3, hosts->front()));
    });
  }
  for (std::thread& thread : threads) thread.join();
}

// What each of three ranks hears when rank r has the settings `given[r]`.
std::vector<absl::Status> HeardOf(
    const std::vector<std::vector<Setting>>& given) {
  const auto world = ThreadCommunicators(3, absl::Seconds(20));
  std::vector<absl::Status> heard(3);
  std::vector<std::thread> threads;
  for (int r = 0; r < 3; ++r) {
    threads.emplace_back([&, r] { heard[r] = CheckSame(given[r], *world[r]); });
  }
  for (std::thread& thread : threads) thread.join();
  return heard;
}

TEST(CheckSameTest, NamesTheFirstRankThatIsNotAsTheFirst) {
  const std::vector<Setting> usual = {{"--dp", "2"}, {"model", "a: 1\nb: 2"}};
  for (const absl::Status& status : HeardOf({usual, usual, usual})) {
    EXPECT_THAT(status, IsOk());
  }
  for (const absl::Status& status :
       HeardOf({usual, usual, {{"--dp", "2"}, {"model", "a: 1\nb: 3"}}})) {
    EXPECT_EQ(status, absl::InvalidArgumentError(
                          "rank 2: model is b: 3, on rank 0 b: 2; start all "
                          "ranks alike"));
  }
  for (const absl::Status& status :
       HeardOf({usual, {{"--dp", ""}, usual[1]}, {{"--dp", "4"}, usual[1]}})) {
    EXPECT_EQ(status, absl::InvalidArgumentError(
                          "rank 1: --dp is not given, on rank 0 2; start all "
                          "ranks alike"));
  }
  for (const absl::Status& status :
       HeardOf({usual, {{"--dp", "2"}, {"--tp", "1"}}, usual})) {
    EXPECT_EQ(status, absl::InvalidArgumentError(
                          "rank 1: the program is not rank 0's, which knows "
                          "no --tp; start the same on all ranks"));
  }
}

}  // namespace
}  // namespace strata
