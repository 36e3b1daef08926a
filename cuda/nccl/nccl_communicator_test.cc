#include "cuda/nccl/nccl_communicator.h"

#include <cstdint>
#include <functional>
#include <memory>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "core/parallel/communicator.h"
#include "core/parallel/communicator_suite.h"
#include "core/parallel/thread_communicator.h"
#include "core/testing/status_matchers.h"
#include "cuda/nccl/nccl_library.h"
#include "cuda/runtime/device_array.h"
#include "cuda/runtime/status.h"
#include "cuda_runtime_api.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata::gpu {
namespace {

using ::testing::_;
using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// Threads of this process, each with a GPU: as many as there are.
class NcclCommunicatorTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!HasDevice()) GTEST_SKIP() << "no GPU";
    const auto nccl = NcclLibrary::Load();
    if (!nccl.ok()) GTEST_SKIP() << nccl.status().message();
    ASSERT_EQ(cudaGetDeviceCount(&num_gpus_), cudaSuccess);
  }

  void OnGpus(absl::Duration timeout,
              const std::function<void(NcclCommunicator&)>& body,
              Messages messages = Messages::kBoxes) {
    const auto hosts = ThreadCommunicators(num_gpus_, absl::Seconds(60));
    std::vector<std::thread> threads;
    for (const auto& host : hosts) {
      threads.emplace_back([&, host = host.get()] {
        const auto world = NcclCommunicator::Join(
            *host, /*device=*/host->rank(), timeout, messages);
        ASSERT_THAT(world, IsOk());
        body(**world);
      });
    }
    for (std::thread& thread : threads) thread.join();
  }

  int num_gpus_ = 0;
};

TEST_F(NcclCommunicatorTest, PassesTheSuite) {
  for (const Messages messages : {Messages::kBoxes, Messages::kNccl}) {
    std::vector<std::vector<std::string>> failures(num_gpus_);
    OnGpus(
        absl::Seconds(60),
        [&](Communicator& world) {
          failures[world.rank()] = RunCommunicatorSuite(world);
        },
        messages);
    EXPECT_THAT(failures, Each(IsEmpty())) << num_gpus_ << " GPUs";
  }
}

// More on the way than are taken, of sizes that grow and shrink; boxes that are
// empty again are used again, and what lies in the others stays.
TEST_F(NcclCommunicatorTest, MessagesWaitInBoxes) {
  OnGpus(absl::Seconds(60), [&](Communicator& world) {
    constexpr int64_t kMost = 300'000;
    const auto sent = DeviceArray<float>::CopyOf(std::vector<float>(kMost));
    const auto got = DeviceArray<float>::CopyOf(std::vector<float>(kMost));
    ASSERT_THAT(sent, IsOk());
    ASSERT_THAT(got, IsOk());
    const int next = (world.rank() + 1) % world.size();
    const int before = (world.rank() + world.size() - 1) % world.size();
    const std::vector<int64_t> sizes = {2'000, 300'000, 70'001, 1'025, 100'000};
    const auto fill = [](int rank, int round, size_t i) {
      return static_cast<float>(100 * rank + 10 * round + static_cast<int>(i));
    };
    for (int round = 0; round < 4; ++round) {
      for (size_t i = 0; i < sizes.size(); ++i) {
        const std::vector<float> values(sizes[i], fill(world.rank(), round, i));
        ASSERT_EQ(cudaMemcpy(sent->data(), values.data(), 4 * sizes[i],
                             cudaMemcpyHostToDevice),
                  cudaSuccess);
        ASSERT_THAT(world.Send({sent->data(), sizes[i], DType::kF32}, next),
                    IsOk());
      }
      for (size_t i = 0; i < sizes.size(); ++i) {
        ASSERT_THAT(world.Receive({got->data(), sizes[i], DType::kF32}, before),
                    IsOk());
        std::vector<float> values = *got->ToHost();
        values.resize(sizes[i]);
        EXPECT_THAT(values, Each(fill(before, round, i)));
      }
    }
  });
}

TEST_F(NcclCommunicatorTest, TakesDeviceMemory) {
  OnGpus(absl::Seconds(60), [&](Communicator& world) {
    std::vector<float> host(1000);
    std::iota(host.begin(), host.end(), 1000.0f * world.rank());
    const auto device = DeviceArray<float>::CopyOf(host);
    ASSERT_THAT(device, IsOk());
    ASSERT_THAT(
        world.AllReduce({device->data(), 1000, DType::kF32}, ReduceOp::kMax),
        IsOk());
    const auto result = device->ToHost();
    ASSERT_THAT(result, IsOk());
    EXPECT_EQ((*result)[7], 1000.0f * (world.size() - 1) + 7);
    // By message to the next, and back to host memory.
    std::vector<float> received(1000);
    ASSERT_THAT(world.Send({device->data(), 1000, DType::kF32},
                           (world.rank() + 1) % world.size()),
                IsOk());
    ASSERT_THAT(world.Receive(PayloadOf(absl::MakeSpan(received)),
                              (world.rank() + world.size() - 1) % world.size()),
                IsOk());
    EXPECT_EQ(received, *result);
  });
}

// As a rank with several stages of a pipeline does: several on the way, of
// device memory that is used again at once, none through the host.
TEST_F(NcclCommunicatorTest, SendsDeviceMemoryToItself) {
  OnGpus(absl::Seconds(60), [&](Communicator& world) {
    constexpr int64_t kElements = 70'001;
    const auto device =
        DeviceArray<float>::CopyOf(std::vector<float>(kElements));
    ASSERT_THAT(device, IsOk());
    const Payload payload = {device->data(), kElements, DType::kF32};
    const int self = world.rank();
    for (int turn = 0; turn < 3; ++turn) {
      const std::vector<float> values(kElements, 10.0f * self + turn);
      ASSERT_EQ(cudaMemcpy(device->data(), values.data(), payload.num_bytes(),
                           cudaMemcpyHostToDevice),
                cudaSuccess);
      ASSERT_THAT(world.Send(payload, self), IsOk());
      ASSERT_EQ(cudaMemset(device->data(), 0, payload.num_bytes()),
                cudaSuccess);
    }
    for (int turn = 0; turn < 3; ++turn) {
      ASSERT_THAT(world.Receive(payload, self), IsOk());
      EXPECT_THAT(*device->ToHost(), Each(10.0f * self + turn));
    }
    std::vector<float> more(4);
    EXPECT_THAT(world.Receive(PayloadOf(absl::MakeSpan(more)), self),
                StatusIs(absl::StatusCode::kDeadlineExceeded, _));
  });
}

// What a program does: several states by one call, the second time captured.
TEST_F(NcclCommunicatorTest, SumsOnAStreamThatIsCaptured) {
  OnGpus(absl::Seconds(60), [&](NcclCommunicator& world) {
    const std::vector<float> ones(70'001, 1), twos(3, 2);
    const auto a = DeviceArray<float>::CopyOf(ones);
    const auto b = DeviceArray<float>::CopyOf(twos);
    ASSERT_THAT(a, IsOk());
    ASSERT_THAT(b, IsOk());
    cudaStream_t stream;
    ASSERT_EQ(cudaStreamCreate(&stream), cudaSuccess);
    const std::vector<Payload> states = {{a->data(), 70'001, DType::kF32},
                                         {b->data(), 3, DType::kF32}};
    ASSERT_THAT(world.EnqueueAllReduce(states, stream), IsOk());
    ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
    ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal),
              cudaSuccess);
    ASSERT_THAT(world.EnqueueAllReduce(states, stream), IsOk());
    cudaGraph_t graph;
    ASSERT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
    cudaGraphExec_t executable;
    ASSERT_EQ(cudaGraphInstantiate(&executable, graph, 0), cudaSuccess);
    for (int turn = 0; turn < 2; ++turn) {
      ASSERT_EQ(cudaGraphLaunch(executable, stream), cudaSuccess);
    }
    ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
    const float n = world.size();
    EXPECT_EQ(a->ToHost()->back(), n * n * n);
    EXPECT_EQ(b->ToHost()->front(), 2 * n * n * n);
    cudaGraphExecDestroy(executable);
    cudaGraphDestroy(graph);
    cudaStreamDestroy(stream);
  });
}

// To the first call, where NCCL connects the ranks, or to a later one.
TEST_F(NcclCommunicatorTest, SaysThatARankDoesNotCome) {
  if (num_gpus_ < 2) GTEST_SKIP() << "one GPU";
  for (const int calls : {0, 1}) {
    std::vector<absl::Status> status(num_gpus_);
    OnGpus(absl::Seconds(10), [&](Communicator& world) {
      std::vector<float> x(4);
      const auto sum = [&] {
        return world.AllReduce(PayloadOf(absl::MakeSpan(x)), ReduceOp::kSum);
      };
      for (int i = 0; i < calls; ++i) ASSERT_THAT(sum(), IsOk());
      if (world.rank() != 1) status[world.rank()] = sum();
    });
    EXPECT_THAT(status[0], StatusIs(absl::StatusCode::kDeadlineExceeded,
                                    HasSubstr("world: all_reduce: the other "
                                              "ranks have not come in 10s")))
        << "after " << calls << " calls";
  }
}

TEST_F(NcclCommunicatorTest, SaysThatAMessageHasAnotherSize) {
  OnGpus(absl::Seconds(5), [&](Communicator& world) {
    std::vector<float> x(4), y(5);
    const int next = (world.rank() + 1) % world.size();
    const int before = (world.rank() + world.size() - 1) % world.size();
    ASSERT_THAT(world.Send(PayloadOf(absl::MakeSpan(y)), next), IsOk());
    EXPECT_THAT(world.Receive(PayloadOf(absl::MakeSpan(x)), before),
                StatusIs(_, HasSubstr("20")));
  });
}

}  // namespace
}  // namespace strata::gpu
