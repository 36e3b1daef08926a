// Several GPUs against one: the same losses; the same weights on each.

#include <cmath>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "core/model/config.h"
#include "core/parallel/mesh.h"
#include "core/parallel/thread_communicator.h"
#include "core/runtime/state_store.h"
#include "core/tensor/tensor.h"
#include "core/testing/status_matchers.h"
#include "cuda/nccl/nccl_communicator.h"
#include "cuda/nccl/nccl_library.h"
#include "cuda/ops/all_kernels.h"
#include "cuda/runtime/cuda_backend.h"
#include "cuda/runtime/status.h"
#include "cuda_runtime_api.h"
#include "gtest/gtest.h"
#include "training/config.h"
#include "training/data/corpus.h"
#include "training/routing_fixture.h"
#include "training/trainer.h"

namespace strata {
namespace {

constexpr int kSteps = 20;

struct RankRun {
  std::vector<double> losses;
  std::vector<float> weights;  // All parameters, one by one.
};

// The run on GPU `device`; alone if there is no mesh.
RankRun Train(const ModelConfig& model, int accumulation, int device,
              const Mesh* mesh) {
  TrainConfig train = TinyTrain();
  train.set_steps(kSteps);
  train.set_learning_rate(3e-3);
  train.set_accumulation(accumulation);
  TrainerOptions options;
  options.mesh = mesh;
  options.backend = [=]() -> absl::StatusOr<std::unique_ptr<Backend>> {
    gpu::CudaOptions cuda;
    cuda.device = device;
    cuda.mesh = mesh;
    return gpu::CudaBackend::Create(cuda, gpu::AllCudaKernels());
  };
  const Corpus corpus = TinyCorpus();
  auto trainer =
      Trainer::Create(model, train, &corpus, /*num_threads=*/1, options);
  EXPECT_THAT(trainer, IsOk());
  RankRun run;
  for (int i = 0; trainer.ok() && i < kSteps; ++i) {
    const auto metrics = (*trainer)->Step();
    EXPECT_THAT(metrics, IsOk());
    if (!metrics.ok()) break;
    run.losses.push_back(metrics->loss);
  }
  if (!trainer.ok()) return run;
  const StateStore& state = (*trainer)->state();
  for (const std::string& name : state.names()) {
    const TensorView view = state.Get(name);
    if (name.rfind("grad.", 0) == 0 || view.dtype != DType::kF32) continue;
    const auto values = view.span<float>();
    run.weights.insert(run.weights.end(), values.begin(), values.end());
  }
  return run;
}

class CudaRanksTest : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    if (!gpu::HasDevice()) GTEST_SKIP() << "no GPU";
    const auto nccl = gpu::NcclLibrary::Load();
    if (!nccl.ok()) GTEST_SKIP() << nccl.status().message();
    ASSERT_EQ(cudaGetDeviceCount(&num_gpus_), cudaSuccess);
    model_ = GetParam() ? Hierarchical() : Flat();
  }

  // The run of each GPU, by a thread of its own.
  std::vector<RankRun> TrainOnAll(int accumulation) {
    const auto hosts = ThreadCommunicators(num_gpus_, absl::Seconds(60));
    std::vector<RankRun> runs(num_gpus_);
    std::vector<std::thread> threads;
    for (const auto& host : hosts) {
      threads.emplace_back([&, host = host.get()] {
        const int rank = host->rank();
        const auto world =
            gpu::NcclCommunicator::Join(*host, rank, absl::Seconds(60));
        ASSERT_THAT(world, IsOk());
        const auto mesh = Mesh::Create(**world, {/*dp=*/num_gpus_, 1, 1});
        ASSERT_THAT(mesh, IsOk());
        runs[rank] = Train(model_, accumulation, rank, mesh->get());
      });
    }
    for (std::thread& thread : threads) thread.join();
    return runs;
  }

  int num_gpus_ = 0;
  ModelConfig model_;
};

TEST_P(CudaRanksTest, TrainAsOneGpuDoes) {
  const int accumulation = 2 * num_gpus_;
  const RankRun one = Train(model_, accumulation, 0, /*mesh=*/nullptr);
  const std::vector<RankRun> runs = TrainOnAll(accumulation);
  ASSERT_EQ(one.losses.size(), kSteps);
  for (const RankRun& run : runs) {
    ASSERT_EQ(run.losses.size(), kSteps);
    for (int i = 0; i < kSteps; ++i) {
      // Sums of gradients are rounded otherwise.
      EXPECT_NEAR(run.losses[i], one.losses[i], 1e-3 * one.losses[i])
          << "step " << i;
    }
    EXPECT_EQ(run.weights, runs[0].weights);
  }
}

TEST_P(CudaRanksTest, RepeatBitForBit) {
  const std::vector<RankRun> first = TrainOnAll(num_gpus_);
  const std::vector<RankRun> second = TrainOnAll(num_gpus_);
  EXPECT_EQ(first[0].losses, second[0].losses);
  EXPECT_EQ(first[0].weights, second[0].weights);
}

INSTANTIATE_TEST_SUITE_P(Models, CudaRanksTest, ::testing::Bool(),
                         [](const auto& info) {
                           return info.param ? "hierarchical" : "flat";
                         });

}  // namespace
}  // namespace strata
