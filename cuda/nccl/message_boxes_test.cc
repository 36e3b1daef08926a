#include "cuda/nccl/message_boxes.h"

#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "core/testing/status_matchers.h"
#include "cuda/nccl/shared_block.h"
#include "cuda/runtime/device_array.h"
#include "cuda/runtime/status.h"
#include "cuda_runtime_api.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

extern char** environ;

namespace strata::gpu {
namespace {

using ::testing::Each;

constexpr char kSocket[] = "STRATA_MESSAGE_BOXES_TEST_SOCKET";
constexpr char kReceiver[] =
    "MessageBoxesTest.DISABLED_IsTheReceiverOfAnotherProcess";
constexpr int kRounds = 4;
// Of floats; they grow and shrink.
constexpr int64_t kSizes[] = {2'000, 300'000, 70'001, 1, 100'000};
constexpr int64_t kMost = 300'000;

float ValueOf(int round, int message) {
  return static_cast<float>(10 * round + message + 1);
}

// Structs of plain bytes over a socket.
template <typename T>
void Tell(int socket, const T& x) {
  ASSERT_EQ(write(socket, &x, sizeof(x)), sizeof(x));
}
template <typename T>
void Hear(int socket, T& x) {
  ASSERT_EQ(recv(socket, &x, sizeof(x), MSG_WAITALL), sizeof(x));
}

// Fills boxes, all of a round before the first is taken.
void SendAll(int socket, int device) {
  ASSERT_EQ(cudaSetDevice(device), cudaSuccess);
  const RankPlace here = PlaceHere(device);
  Tell(socket, here);
  RankPlace receiver = {};
  Hear(socket, receiver);
  Outbox outbox(here, receiver, absl::Seconds(30));
  const auto data = DeviceArray<float>::CopyOf(std::vector<float>(kMost));
  ASSERT_THAT(data, IsOk());
  for (int round = 0; round < kRounds; ++round) {
    int i = 0;
    std::vector<BoxedMessage> messages;
    for (const int64_t size : kSizes) {
      const std::vector<float> values(size, ValueOf(round, i++));
      ASSERT_EQ(cudaMemcpy(data->data(), values.data(), 4 * size,
                           cudaMemcpyHostToDevice),
                cudaSuccess);
      const auto message = outbox.Put(data->data(), 4 * size);
      ASSERT_THAT(message, IsOk());
      messages.push_back(*message);
      // Boxes of the first round are enough for the later ones.
      EXPECT_EQ(message->is_new, round == 0 ? 1 : 0) << round << ", " << i;
    }
    for (const BoxedMessage& message : messages) Tell(socket, message);
    char taken = 0;
    Hear(socket, taken);
  }
}

void TakeAll(int socket, int device) {
  ASSERT_EQ(cudaSetDevice(device), cudaSuccess);
  RankPlace sender = {};
  Hear(socket, sender);
  const RankPlace here = PlaceHere(device);
  Tell(socket, here);
  Inbox inbox(here, sender);
  const auto data = DeviceArray<float>::CopyOf(std::vector<float>(kMost));
  ASSERT_THAT(data, IsOk());
  for (int round = 0; round < kRounds; ++round) {
    int i = 0;
    for (const int64_t size : kSizes) {
      BoxedMessage message = {};
      Hear(socket, message);
      ASSERT_EQ(message.num_bytes, 4 * size);
      ASSERT_THAT(inbox.Take(message, data->data()), IsOk());
      auto values = data->ToHost();
      ASSERT_THAT(values, IsOk());
      values->resize(size);
      EXPECT_THAT(*values, Each(ValueOf(round, i++)));
    }
    Tell(socket, 'k');
  }
}

class MessageBoxesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!HasDevice()) GTEST_SKIP() << "no GPU";
    ASSERT_EQ(cudaGetDeviceCount(&num_gpus_), cudaSuccess);
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, ends_), 0);
  }
  void TearDown() override {
    for (const int end : ends_) {
      if (end >= 0) close(end);
    }
  }

  int num_gpus_ = 0;
  int ends_[2] = {-1, -1};
};

TEST_F(MessageBoxesTest, GoBetweenThreads) {
  std::thread receiver([this] { TakeAll(ends_[1], num_gpus_ - 1); });
  SendAll(ends_[0], 0);
  receiver.join();
}

TEST_F(MessageBoxesTest, GoBetweenProcesses) {
  // A process of its own from the start: a child would share what CUDA has.
  const std::string filter = absl::StrCat("--gtest_filter=", kReceiver);
  std::string program = "message_boxes_test";
  std::string all = "--gtest_also_run_disabled_tests";
  std::string only = filter;
  char* const args[] = {program.data(), only.data(), all.data(), nullptr};
  ASSERT_EQ(setenv(kSocket, absl::StrCat(ends_[1]).c_str(), 1), 0);
  // The other process runs its one test whatever part of them this one has.
  unsetenv("GTEST_TOTAL_SHARDS");
  unsetenv("GTEST_SHARD_INDEX");
  pid_t child = 0;
  ASSERT_EQ(
      posix_spawn(&child, "/proc/self/exe", nullptr, nullptr, args, environ),
      0);
  unsetenv(kSocket);
  close(ends_[1]);
  ends_[1] = -1;
  SendAll(ends_[0], 0);
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

// Not a test of its own.
TEST_F(MessageBoxesTest, DISABLED_IsTheReceiverOfAnotherProcess) {
  const char* const socket = std::getenv(kSocket);
  ASSERT_NE(socket, nullptr) << "GoBetweenProcesses starts it";
  TakeAll(std::atoi(socket), num_gpus_ - 1);
}

}  // namespace
}  // namespace strata::gpu
