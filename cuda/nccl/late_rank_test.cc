// A rank that does not come while another is within a program whose sums are
// NCCL's: an error in time, and no rank is left waiting.

#include <memory>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/ops/collective.h"
#include "core/parallel/mesh.h"
#include "core/parallel/thread_communicator.h"
#include "core/runtime/program.h"
#include "core/runtime/state_store.h"
#include "core/tensor/dtype.h"
#include "core/testing/status_matchers.h"
#include "cuda/nccl/nccl_communicator.h"
#include "cuda/nccl/nccl_library.h"
#include "cuda/ops/all_kernels.h"
#include "cuda/runtime/cuda_backend.h"
#include "cuda/runtime/status.h"
#include "cuda_runtime_api.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata::gpu {
namespace {

using ::testing::HasSubstr;

// Adds a state up over all ranks; `beside`: as nodes that may be left to run.
Graph SumOfState(bool beside) {
  GraphBuilder b(DType::kF32);
  const ValueId state = b.State("x", DType::kF32, {Static(1 << 20)});
  AllReduce(b, {state}, "batch", beside);
  auto graph = b.Finish();
  EXPECT_THAT(graph, IsOk());
  return *std::move(graph);
}

class LateRankTest : public ::testing::TestWithParam<bool> {};

TEST_P(LateRankTest, IsAnErrorInTime) {
  int num_gpus = 0;
  if (!HasDevice()) GTEST_SKIP() << "no GPU";
  ASSERT_EQ(cudaGetDeviceCount(&num_gpus), cudaSuccess);
  if (num_gpus < 2) GTEST_SKIP() << "one GPU";
  const auto nccl = NcclLibrary::Load();
  if (!nccl.ok()) GTEST_SKIP() << nccl.status().message();
  constexpr int kRanks = 2;
  const bool ahead = GetParam();
  const auto hosts = ThreadCommunicators(kRanks, absl::Seconds(60));
  std::vector<std::thread> threads;
  for (const auto& host : hosts) {
    threads.emplace_back([&, host = host.get()] {
      const auto world =
          NcclCommunicator::Join(*host, host->rank(), absl::Seconds(8));
      ASSERT_THAT(world, IsOk());
      const auto mesh = Mesh::Create(**world, {kRanks, 1, 1});
      ASSERT_THAT(mesh, IsOk());
      CudaOptions options;
      options.device = host->rank();
      options.mesh = mesh->get();
      const auto backend = CudaBackend::Create(options, AllCudaKernels());
      ASSERT_THAT(backend, IsOk());
      StateStore state(**backend);
      Program::Options how;
      how.runs_ahead = ahead;
      const auto program =
          Program::Compile(SumOfState(ahead), **backend, state, how);
      ASSERT_THAT(program, IsOk());
      // Operator by operator, then captured.
      for (int i = 0; i < 3; ++i) ASSERT_THAT((*program)->Run(), IsOk());
      ASSERT_THAT(host->Barrier(), IsOk());
      if (host->rank() == 0) {
        absl::Status status;
        if (ahead) {
          EXPECT_THAT((*program)->RunAhead(), IsOk());
          status = (*program)->Finish();
        } else {
          status = (*program)->Run();
        }
        EXPECT_THAT(status, StatusIs(absl::StatusCode::kDeadlineExceeded,
                                     HasSubstr("the other ranks have not come "
                                               "in 8s")));
      }
      ASSERT_THAT(host->Barrier(), IsOk());
    });
  }
  for (std::thread& thread : threads) thread.join();
}

INSTANTIATE_TEST_SUITE_P(Sums, LateRankTest, ::testing::Bool(),
                         [](const auto& info) {
                           return info.param ? "RunAhead" : "InPlace";
                         });

}  // namespace
}  // namespace strata::gpu
