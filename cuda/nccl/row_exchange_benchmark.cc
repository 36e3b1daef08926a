// What an exchange of experts' rows between GPUs of one host takes, by size:
// SendRows and ReturnRows as a program has them, of one captured graph.
//
//   bazel run -c opt --config=cuda //cuda/nccl:row_exchange_benchmark -- [GPUS]
//
// Each rank has `rows` rows of `columns`, as many for each of its peers' and
// its own experts, 8 a rank; F32 in memory, BF16 on the way. A program makes a
// plan and kFew or kMany exchanges of the same rows; an exchange takes the
// difference of their times over that of their numbers, so neither plan nor
// launch of the graph counts. Bandwidth is of what leaves a GPU. Rows of more
// than L2 come from memory.

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/time/time.h"
#include "core/base/check.h"
#include "core/base/random.h"
#include "core/base/status_macros.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/ops/collective_rows.h"
#include "core/parallel/communicator.h"
#include "core/parallel/mesh.h"
#include "core/parallel/thread_communicator.h"
#include "core/runtime/program.h"
#include "core/runtime/state_store.h"
#include "core/tensor/dtype.h"
#include "cuda/nccl/nccl_communicator.h"
#include "cuda/ops/all_kernels.h"
#include "cuda/runtime/cuda_backend.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {
namespace {

constexpr int kFew = 4, kMany = 24;  // Exchanges.
constexpr int kTurns = 15, kWarm = 4;
constexpr int64_t kExperts = 8;  // Of a rank.

struct Size {
  int64_t rows, columns;
};

using Clock = std::chrono::steady_clock;

// `exchanges` of "x", there and back.
absl::StatusOr<Graph> Exchanges(const Size& size, int ranks, int exchanges) {
  GraphBuilder b(DType::kF32);
  const ValueId rows = b.Input("rows", DType::kI32, {});
  const ValueId offset =
      b.Input("offset", DType::kI32, {Static(kExperts * ranks + 1)});
  const RowExchange exchange = ExchangePlan(b, offset, rows, ranks, "ep");
  ValueId x = b.Input("x", DType::kF32,
                      {Ragged(size.rows, rows), Static(size.columns)});
  for (int i = 0; i < exchanges; i += 2) {
    x = ReturnRows(b, SendRows(b, x, exchange, "ep"), exchange, size.rows,
                   "ep");
  }
  b.Output("x", x);
  return b.Finish();
}

// The median of the turns, in seconds.
absl::StatusOr<double> Time(const Size& size, int exchanges, Communicator& host,
                            CudaBackend& backend) {
  StateStore state(backend);
  ASSIGN_OR_RETURN(Graph graph, Exchanges(size, host.size(), exchanges));
  ASSIGN_OR_RETURN(const auto program,
                   Program::Compile(std::move(graph), backend, state));
  int32_t* const offset = program->Input("offset").as<int32_t>();
  const int64_t experts = kExperts * host.size();
  for (int64_t e = 0; e <= experts; ++e) {
    offset[e] = static_cast<int32_t>(size.rows * e / experts);
  }
  *program->Input("rows").as<int32_t>() = static_cast<int32_t>(size.rows);
  Random random(/*seed=*/1, /*stream=*/host.rank());
  float* const x = program->Input("x").as<float>();
  for (int64_t i = 0; i < size.rows * size.columns; ++i) {
    x[i] = static_cast<float>(random.Uniform());
  }
  std::vector<double> seconds;
  for (int turn = 0; turn < kWarm + kTurns; ++turn) {
    RETURN_IF_ERROR(host.Barrier());
    const Clock::time_point start = Clock::now();
    RETURN_IF_ERROR(program->Run());
    const std::chrono::duration<double> took = Clock::now() - start;
    if (turn >= kWarm) seconds.push_back(took.count());
  }
  std::sort(seconds.begin(), seconds.end());
  return seconds[kTurns / 2];
}

absl::Status RunRank(Communicator& host) {
  ASSIGN_OR_RETURN(const auto world, NcclCommunicator::Join(host, host.rank(),
                                                            absl::Seconds(60)));
  ASSIGN_OR_RETURN(const auto mesh, Mesh::Create(*world, {1, host.size(), 1}));
  CudaOptions options;
  options.device = host.rank();
  options.precision = Precision::kBf16;
  options.mesh = mesh.get();
  ASSIGN_OR_RETURN(const auto backend,
                   CudaBackend::Create(options, AllCudaKernels()));
  for (const Size size :
       {Size{256, 512}, Size{2048, 512}, Size{8192, 512}, Size{32768, 512},
        Size{8192, 2048}, Size{65536, 2048}}) {
    ASSIGN_OR_RETURN(const double few, Time(size, kFew, host, *backend));
    ASSIGN_OR_RETURN(const double many, Time(size, kMany, host, *backend));
    if (host.rank() != 0) continue;
    const double seconds = (many - few) / (kMany - kFew);
    const double sent = 2.0 * static_cast<double>(size.rows * size.columns) *
                        (host.size() - 1) / host.size();
    std::printf("%d GPUs, %6d x %4d: %7.1f us, %6.2f MB sent, %4.0f GB/s\n",
                host.size(), static_cast<int>(size.rows),
                static_cast<int>(size.columns), 1e6 * seconds, 1e-6 * sent,
                1e-9 * sent / seconds);
    std::fflush(stdout);
  }
  return absl::OkStatus();
}

void Run(int ranks) {
  const auto hosts = ThreadCommunicators(ranks, absl::Seconds(60));
  std::vector<std::thread> threads;
  for (const auto& host : hosts) {
    threads.emplace_back([&, host = host.get()] {
      const absl::Status status = RunRank(*host);
      CHECK(status.ok()) << "rank " << host->rank() << ": " << status;
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace strata::gpu

int main(int argc, char** argv) {
  int ranks = 0;
  if (argc > 1) {
    CHECK(absl::SimpleAtoi(argv[1], &ranks)) << argv[1] << "; want GPUs";
  } else {
    CHECK(cudaGetDeviceCount(&ranks) == cudaSuccess);
  }
  for (int n = 2; n <= ranks; n *= 2) strata::gpu::Run(n);
}
