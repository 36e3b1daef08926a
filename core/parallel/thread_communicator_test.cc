#include "core/parallel/thread_communicator.h"

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "core/parallel/communicator.h"
#include "core/parallel/communicator_suite.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::_;
using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// Runs `body` on a thread for each rank.
void OnRanks(int size, absl::Duration timeout,
             const std::function<void(Communicator&)>& body) {
  const auto group = ThreadCommunicators(size, timeout);
  std::vector<std::thread> threads;
  for (const auto& communicator : group) {
    threads.emplace_back([&] { body(*communicator); });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(ThreadCommunicatorTest, PassesTheSuiteOnAnyNumberOfRanks) {
  for (const int size : {1, 2, 3, 4, 7}) {
    std::vector<std::vector<std::string>> failures(size);
    OnRanks(size, absl::Seconds(60), [&](Communicator& world) {
      failures[world.rank()] = RunCommunicatorSuite(world);
    });
    EXPECT_THAT(failures, Each(IsEmpty())) << size << " ranks";
  }
}

TEST(ThreadCommunicatorTest, PassesTheSuiteOnTwoGroupsAtOnce) {
  for (const int size : {2, 3}) {
    std::vector<std::vector<std::string>> failures(size);
    OnRanks(size, absl::Seconds(60), [&](Communicator& world) {
      failures[world.rank()] = RunSuiteOnTwoThreads(world);
    });
    EXPECT_THAT(failures, Each(IsEmpty())) << size << " ranks";
  }
}

// Of each rank.
std::vector<absl::Status> StatusOfRanks(
    int size, absl::Duration timeout,
    const std::function<absl::Status(Communicator&)>& call) {
  std::vector<absl::Status> status(size);
  OnRanks(size, timeout,
          [&](Communicator& world) { status[world.rank()] = call(world); });
  return status;
}

TEST(ThreadCommunicatorTest, NamesTheRankThatDoesNotCome) {
  const auto status =
      StatusOfRanks(3, absl::Milliseconds(50), [](Communicator& world) {
        std::vector<float> x(4);
        if (world.rank() == 1) return absl::OkStatus();
        return world.AllReduce(PayloadOf(absl::MakeSpan(x)), ReduceOp::kSum);
      });
  for (const int rank : {0, 2}) {
    EXPECT_THAT(status[rank],
                StatusIs(absl::StatusCode::kDeadlineExceeded,
                         HasSubstr("world: all_reduce of 4 F32: rank 1 has "
                                   "not come in 50ms")));
  }
}

TEST(ThreadCommunicatorTest, NamesTheRankThatSendsNothing) {
  const auto status =
      StatusOfRanks(2, absl::Milliseconds(50), [](Communicator& world) {
        std::vector<float> x(4);
        if (world.rank() == 1) return absl::OkStatus();
        return world.Receive(PayloadOf(absl::MakeSpan(x)), 1);
      });
  EXPECT_THAT(status[0],
              StatusIs(absl::StatusCode::kDeadlineExceeded,
                       HasSubstr("receive: rank 1 has not come in 50ms")));
}

TEST(ThreadCommunicatorTest, SaysWhichCallsDoNotAgree) {
  const auto status =
      StatusOfRanks(3, absl::Seconds(60), [](Communicator& world) {
        std::vector<float> x(world.rank() == 2 ? 5 : 4);
        return world.AllReduce(PayloadOf(absl::MakeSpan(x)), ReduceOp::kSum);
      });
  EXPECT_THAT(status,
              Each(StatusIs(absl::StatusCode::kInvalidArgument,
                            HasSubstr("rank 2 calls all_reduce of 5 F32, rank "
                                      "0 all_reduce of 4 F32"))));
}

TEST(ThreadCommunicatorTest, SaysWhichCountsDoNotAgree) {
  const auto status =
      StatusOfRanks(2, absl::Seconds(60), [](Communicator& world) {
        const std::vector<int64_t> send = {1, 2};
        const std::vector<int64_t> receive = {1, world.rank() == 0 ? 1 : 2};
        std::vector<float> in(3), out(receive[0] + receive[1]);
        return world.AllToAll(PayloadOf(absl::MakeSpan(in)), send, receive,
                              PayloadOf(absl::MakeSpan(out)));
      });
  // Rank 0 sends 2 elements to rank 1, which expects 1.
  EXPECT_THAT(status, Each(StatusIs(absl::StatusCode::kInvalidArgument,
                                    HasSubstr("all_to_all: rank 0 sends 2 "
                                              "elements to rank 1, which "
                                              "expects 1"))));
}

TEST(ThreadCommunicatorTest, RefusesAMessageOfAnotherSize) {
  const auto status =
      StatusOfRanks(2, absl::Seconds(60), [](Communicator& world) {
        std::vector<float> x(3 + world.rank());
        return world.rank() == 0
                   ? world.Send(PayloadOf(absl::MakeSpan(x)), 1)
                   : world.Receive(PayloadOf(absl::MakeSpan(x)), 0);
      });
  EXPECT_THAT(status[1], StatusIs(absl::StatusCode::kInvalidArgument,
                                  HasSubstr("rank 0 sent 12 bytes to rank 1, "
                                            "which expects 16")));
}

TEST(ThreadCommunicatorTest, IsOfNoUseAfterAnError) {
  OnRanks(2, absl::Milliseconds(50), [](Communicator& world) {
    if (world.rank() == 1) return;
    const absl::Status late = world.Barrier();
    EXPECT_THAT(late, StatusIs(absl::StatusCode::kDeadlineExceeded, _));
    EXPECT_EQ(world.Barrier(), late);
  });
}

TEST(ThreadCommunicatorTest, RefusesWhatCannotBeBeforeItBegins) {
  const auto group = ThreadCommunicators(2, absl::Seconds(60));
  Communicator& world = *group[0];
  std::vector<float> x(4), y(2);
  const Payload four = PayloadOf(absl::MakeSpan(x));
  const Payload two = PayloadOf(absl::MakeSpan(y));
  std::vector<uint8_t> bytes(4);
  const auto invalid = [](const char* text) {
    return StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(text));
  };
  EXPECT_THAT(world.Send(four, 2), invalid("send: rank 2; want 0 to 1"));
  EXPECT_THAT(world.AllReduce(PayloadOf(absl::MakeSpan(bytes)), ReduceOp::kSum),
              invalid("dtype U8; want F32, F64 or I32"));
  EXPECT_THAT(world.AllGather(two, {4}, four),
              invalid("1 counts; want 2, one a rank"));
  EXPECT_THAT(world.AllGather(two, {5, -1}, four),
              invalid("a count is -1; want 0 or more"));
  EXPECT_THAT(world.AllGather(two, {2, 3}, four),
              invalid("out has 4 elements; the counts sum to 5"));
  EXPECT_THAT(world.AllGather(two, {1, 3}, four),
              invalid("rank 0 has 2 elements; its count is 1"));
  EXPECT_THAT(
      world.AllToAll(four, {2, 2}, {2, 2}, PayloadOf(absl::MakeSpan(bytes))),
      invalid("in and out are F32 and U8; want one dtype"));
}

}  // namespace
}  // namespace strata
