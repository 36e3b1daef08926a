// A rank whose GPU is slow is named: ranks wait for it within kernels.

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/parallel/mesh.h"
#include "core/testing/status_matchers.h"
#include "cublas_v2.h"
#include "cuda/runtime/device_array.h"
#include "cuda_runtime_api.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "training/config.pb.h"
#include "training/data/corpus.h"
#include "training/gpu/gpu_ranks.h"
#include "training/metrics.h"
#include "training/routing_fixture.h"
#include "training/run/training_run.h"

namespace strata {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr int kMostSteps = 400;

// Multiplies matrices on a GPU for as long as it lives: whoever else wants it
// waits for blocks to end.
class BusyGpu {
 public:
  explicit BusyGpu(int device) : thread_([this, device] { Run(device); }) {}
  ~BusyGpu() {
    ends_ = true;
    thread_.join();
  }

 private:
  void Run(int device) {
    constexpr int kSize = 4096;
    ASSERT_EQ(cudaSetDevice(device), cudaSuccess);
    const std::vector<float> ones(kSize * kSize, 1);
    const auto a = gpu::DeviceArray<float>::CopyOf(ones);
    const auto b = gpu::DeviceArray<float>::CopyOf(ones);
    ASSERT_THAT(a, IsOk());
    ASSERT_THAT(b, IsOk());
    cudaStream_t stream = nullptr;
    ASSERT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking),
              cudaSuccess);
    cublasHandle_t blas = nullptr;
    ASSERT_EQ(cublasCreate(&blas), CUBLAS_STATUS_SUCCESS);
    cublasSetStream(blas, stream);
    const float one = 1, zero = 0;
    while (!ends_) {
      ASSERT_EQ(cublasSgemm(blas, CUBLAS_OP_N, CUBLAS_OP_N, kSize, kSize, kSize,
                            &one, a->data(), kSize, a->data(), kSize, &zero,
                            b->data(), kSize),
                CUBLAS_STATUS_SUCCESS);
      ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
    }
    cublasDestroy(blas);
    cudaStreamDestroy(stream);
  }

  std::atomic<bool> ends_ = false;
  std::thread thread_;
};

class CudaSlowRankTest : public ::testing::TestWithParam<MeshShape> {};

TEST_P(CudaSlowRankTest, IsNamed) {
  const MeshShape shape = GetParam();
  const std::string why = WhyNoGpuRanks(shape.size());
  if (!why.empty()) GTEST_SKIP() << why;
  const Corpus corpus = TinyCorpus();
  RunOptions options;
  options.model = TinyHierarchical();
  options.train = TinyTrain();
  options.train.set_steps(kMostSteps);
  options.train.set_validation_interval(kMostSteps);
  options.train.set_checkpoint_interval(kMostSteps);
  options.overwrite = true;  // What a run before has left.
  options.out = absl::StrCat(::testing::TempDir(), "/slow_gpu_", shape.dp);
  const BusyGpu busy(/*device=*/1);
  std::vector<nlohmann::json> events;
  std::atomic<bool> is_named = false;
  OnGpuMesh(shape, [&](const Mesh& mesh) {
    RunOptions mine = options;
    mine.mesh = &mesh;
    mine.backend = BackendOnGpu(mesh.world().rank(), &mesh);
    const auto run = TrainingRun::Start(mine, &corpus);
    ASSERT_THAT(run, IsOk());
    RunObserver observer;
    observer.on_event = [&](const nlohmann::json& event) {
      if (event.value("alarm", "") != "slow_rank") return;
      events.push_back(event);
      is_named = true;
    };
    ASSERT_THAT((*run)->Finish(observer, [&] { return is_named.load(); }),
                IsOk());
  });
  ASSERT_FALSE(events.empty());
  EXPECT_EQ(events[0]["state"], "raised");
  EXPECT_EQ(events[0]["rank"], 1);
  EXPECT_THAT(events[0]["message"].get<std::string>(),
              AllOf(HasSubstr("rank 1 on "),
                    HasSubstr("as long as the others of its stage")));
}

// Sums of NCCL, and rows by flags.
INSTANTIATE_TEST_SUITE_P(Meshes, CudaSlowRankTest,
                         ::testing::Values(MeshShape{2, 1, 1},
                                           MeshShape{1, 2, 1}),
                         [](const auto& info) {
                           return info.param.dp == 2 ? "DataParallel"
                                                     : "ExpertParallel";
                         });

}  // namespace
}  // namespace strata
