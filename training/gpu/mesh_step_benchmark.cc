// bazel run --config=cuda -c opt //training/gpu:mesh_step_benchmark --
//     small TEXT_FOLDER 16 1,1,1,4 1,1,1,4,trace.gz 1,4,1,16 1,1,4,16,zb-h1
//
// Steps of the trainer on ranks that are threads, a GPU each: a preset of the
// model and of training, bf16 products, F32 state. Arguments are the preset, a
// folder of text, and how many steps; then a way each:
//
//   dp,ep,pp,micro_batches[,schedule of the pipeline | a routing trace to write
//                          | profile | sums | rows | unfused
//                          | halves | bf16 | SEQUENCESxLENGTH]...
//
// micro_batches are those of a step, of all ranks. A step is the trainer's own
// time, that of the rank that waits longest; of its first kWarm steps none
// counts. `profile` runs operator by operator, and prints the first rank's time
// by operator, in which a wait for other ranks is the exchange's. `sums` and
// `rows` run sums of gradients, and rows of experts, beside other work.
// `unfused`: of the operators that fused ones stand for. `halves` and `bf16`
// are train.state_precision; SEQUENCESxLENGTH is a micro-batch, else the
// preset's.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "core/base/check.h"
#include "core/base/status_macros.h"
#include "core/model/config.h"
#include "core/model/config.pb.h"
#include "core/parallel/communicator.h"
#include "core/parallel/mesh.h"
#include "core/parallel/pipeline_schedule.h"
#include "core/parallel/thread_communicator.h"
#include "core/runtime/backend.h"
#include "core/runtime/program.h"
#include "core/trace/routing_trace.pb.h"
#include "cuda/nccl/nccl_communicator.h"
#include "cuda/ops/all_kernels.h"
#include "cuda/runtime/cuda_backend.h"
#include "training/config.h"
#include "training/config.pb.h"
#include "training/data/corpus.h"
#include "training/metrics.h"
#include "training/pipeline/pipeline_plan.h"
#include "training/routing_recording.h"
#include "training/trainer.h"

namespace strata::gpu {
namespace {

constexpr int kWarm = 5;
constexpr int kProfiled = 3;  // Steps.
constexpr absl::Duration kTimeout = absl::Seconds(60);

struct Task {
  ModelConfig model;
  TrainConfig train;
  const Corpus* corpus = nullptr;
  int steps = 0;
};

struct Way {
  MeshShape shape;
  int micro_batches = 0;
  PipelineKind schedule = PipelineKind::k1F1B;
  std::string trace;
  bool profiled = false, sums = false, rows = false, fuses = true;
  TrainConfig::StatePrecision state = TrainConfig::FP32;
  int sequences = 0, length = 0;  // 0: the preset's.
};

Way WayOf(const std::string& text) {
  const std::vector<std::string> parts = absl::StrSplit(text, ',');
  Way way;
  CHECK(parts.size() >= 4 && absl::SimpleAtoi(parts[0], &way.shape.dp) &&
        absl::SimpleAtoi(parts[1], &way.shape.ep) &&
        absl::SimpleAtoi(parts[2], &way.shape.pp) &&
        absl::SimpleAtoi(parts[3], &way.micro_batches))
      << text << "; want dp,ep,pp,micro_batches[,more]";
  for (size_t i = 4; i < parts.size(); ++i) {
    if (parts[i] == "profile") {
      way.profiled = true;
    } else if (parts[i] == "sums") {
      way.sums = true;
    } else if (parts[i] == "rows") {
      way.rows = true;
    } else if (parts[i] == "unfused") {
      way.fuses = false;
    } else if (parts[i] == "halves") {
      way.state = TrainConfig::FP32_HALVES;
    } else if (parts[i] == "bf16") {
      way.state = TrainConfig::BF16;
    } else if (std::sscanf(parts[i].c_str(), "%dx%d", &way.sequences,
                           &way.length) == 2) {
      // A micro-batch, which is read.
    } else if (absl::EndsWith(parts[i], ".gz")) {
      way.trace = parts[i];
    } else {
      const auto schedule = ParsePipelineKind(parts[i]);
      CHECK(schedule.ok()) << schedule.status().ToString();
      way.schedule = *schedule;
    }
  }
  way.shape.mirrored = IsMirrored(way.schedule);
  return way;
}

void PrintSteps(std::vector<double> ms, const StepMetrics& last) {
  double mean = 0, square = 0;
  for (const double x : ms) mean += x / static_cast<double>(ms.size());
  for (const double x : ms) square += (x - mean) * (x - mean);
  const double deviation =
      ms.size() > 1 ? std::sqrt(square / static_cast<double>(ms.size() - 1))
                    : 0;
  std::sort(ms.begin(), ms.end());
  std::printf(
      "  step: median %.2f ms, mean %.2f +- %.2f (%.2f to %.2f), %d of them; "
      "loss %.4f, Gini %.3f\n",
      ms[ms.size() / 2], mean, deviation, ms.front(), ms.back(),
      static_cast<int>(ms.size()), last.loss, last.experts.gini);
}

absl::Status Profile(Trainer& trainer, bool tells) {
  const std::vector<Program*> programs = trainer.gradient_programs();
  for (Program* const program : programs) program->EnableProfile();
  for (int i = 0; i < kProfiled; ++i) {
    RETURN_IF_ERROR(trainer.Step().status());
  }
  if (!tells) return absl::OkStatus();
  std::map<std::string, Program::OpTime> by_op;
  for (const Program* const program : programs) {
    for (const Program::OpTime& op : program->Profile()) {
      Program::OpTime& sum = by_op[op.op];
      sum.seconds += op.seconds;
      sum.runs += op.runs;
    }
  }
  for (const auto& [name, op] : by_op) {
    std::printf("  %-24s %5d calls a step, %8.3f ms\n", name.c_str(),
                static_cast<int>(op.runs / kProfiled),
                1e3 * op.seconds / kProfiled);
  }
  return absl::OkStatus();
}

absl::Status RunRank(const Task& task, const Way& way, const Mesh* mesh,
                     int device) {
  TrainConfig train = task.train;
  train.set_accumulation(way.micro_batches);
  train.set_state_precision(way.state);
  if (way.sequences > 0) {
    train.set_batch_size(way.sequences);
    train.set_seq_len(way.length);
  }
  TrainerOptions options;
  options.mesh = mesh;
  if (mesh != nullptr) options.schedule = way.schedule;
  options.overlap_sums = way.sums;
  options.overlap_rows = way.rows;
  options.fuse = way.fuses;
  options.backend = [=]() -> absl::StatusOr<std::unique_ptr<Backend>> {
    CudaOptions cuda;
    cuda.device = device;
    cuda.mesh = mesh;
    cuda.precision = Precision::kBf16;
    return CudaBackend::Create(cuda, AllCudaKernels());
  };
  ASSIGN_OR_RETURN(const auto trainer,
                   Trainer::Create(task.model, train, task.corpus,
                                   /*num_threads=*/1, options));
  std::unique_ptr<RoutingRecording> recording;
  if (!way.trace.empty()) {
    RecordOptions record;
    record.path = way.trace;
    ASSIGN_OR_RETURN(recording,
                     trainer->StartRecording(record, RoutingTraceHeader::TRAIN,
                                             /*weights_hash=*/""));
  }
  std::vector<double> ms;
  StepMetrics last;
  for (int i = 0; i < task.steps; ++i) {
    ASSIGN_OR_RETURN(last, trainer->Step(recording.get()));
    if (i >= kWarm) ms.push_back(1e3 * last.seconds);
  }
  if (recording != nullptr) RETURN_IF_ERROR(recording->Close());
  if (device == 0) PrintSteps(ms, last);
  if (way.profiled) return Profile(*trainer, device == 0);
  return absl::OkStatus();
}

absl::Status JoinAndRun(const Task& task, const Way& way, Communicator& host) {
  ASSIGN_OR_RETURN(const auto world,
                   NcclCommunicator::Join(host, host.rank(), kTimeout));
  ASSIGN_OR_RETURN(const auto mesh, Mesh::Create(*world, way.shape));
  RETURN_IF_ERROR(RunRank(task, way, mesh.get(), host.rank()));
  return host.Barrier();
}

void Run(const Task& task, const std::string& text) {
  const Way way = WayOf(text);
  std::printf("%s\n", text.c_str());
  std::fflush(stdout);
  const auto tell = [](int rank, const absl::Status& status) {
    if (!status.ok()) {
      std::printf("  rank %d: %s\n", rank, status.ToString().c_str());
    }
  };
  if (way.shape.size() == 1) {
    tell(0, RunRank(task, way, /*mesh=*/nullptr, /*device=*/0));
  } else {
    const auto hosts = ThreadCommunicators(way.shape.size(), kTimeout);
    std::vector<std::thread> threads;
    for (const auto& host : hosts) {
      threads.emplace_back([&, host = host.get()] {
        tell(host->rank(), JoinAndRun(task, way, *host));
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
  std::fflush(stdout);
}

}  // namespace
}  // namespace strata::gpu

int main(int argc, char** argv) {
  CHECK(argc > 3) << "want PRESET TEXT_FOLDER STEPS WAY...";
  strata::gpu::Task task;
  task.model = *strata::ModelPreset(argv[1]);
  task.train = *strata::TrainPreset(argv[1]);
  const auto corpus = strata::LoadFolderCorpus(argv[2]);
  CHECK(corpus.ok()) << corpus.status().ToString();
  task.corpus = &*corpus;
  task.steps = std::atoi(argv[3]);
  CHECK(task.steps > strata::gpu::kWarm) << argv[3] << " steps";
  for (int i = 4; i < argc; ++i) strata::gpu::Run(task, argv[i]);
}
