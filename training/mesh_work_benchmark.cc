// bazel run -c opt //training:mesh_work_benchmark
//
// CPU time of all ranks for a step, over that of one rank alone for the same
// step: what sharing it out adds in work (copies, messages, sums, what several
// do alike). Ranks are threads that sleep while they wait, so waiting does not
// count, nor do other users of the machine. The least of some steps of each
// mesh, which take turns.

#include <time.h>

#include <algorithm>
#include <iostream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "core/base/check.h"
#include "core/model/config.h"
#include "core/model/config.pb.h"
#include "core/parallel/mesh.h"
#include "core/parallel/pipeline_schedule.h"
#include "core/parallel/thread_communicator.h"
#include "training/config.h"
#include "training/data/corpus.h"
#include "training/pipeline/pipeline_plan.h"
#include "training/trainer.h"

namespace strata {
namespace {

constexpr int kRounds = 3;
constexpr int kSteps = 3;

double CpuSeconds() {
  timespec now = {};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * now.tv_nsec;
}

struct Row {
  MeshShape shape;
  PipelineKind schedule = PipelineKind::k1F1B;
  int micro_batches = 2;
  int layers = 2;
};

// CPU seconds of a step of the demo's layers, all ranks together; its first is
// left out.
double Measure(const Corpus& corpus, const Row& row) {
  MeshShape shape = row.shape;
  shape.mirrored = IsMirrored(row.schedule);
  TrainConfig train = *TrainPreset("demo");
  train.set_accumulation(row.micro_batches);
  ModelConfig model = *ModelPreset("demo");
  model.set_num_layers(row.layers);
  const auto world = ThreadCommunicators(shape.size(), absl::Seconds(60));
  double begin = 0;
  double end = 0;
  std::vector<std::thread> threads;
  for (const auto& rank : world) {
    threads.emplace_back([&, rank = rank.get()] {
      const auto mesh = Mesh::Create(*rank, shape);
      CHECK(mesh.ok()) << mesh.status().ToString();
      TrainerOptions options;
      options.mesh = mesh->get();
      options.schedule = row.schedule;
      const auto trainer = Trainer::Create(model, train, &corpus,
                                           /*num_threads=*/1, options);
      CHECK(trainer.ok()) << trainer.status().ToString();
      for (int step = 0; step <= kSteps; ++step) {
        CHECK((*trainer)->Step().ok());
        CHECK(rank->Barrier().ok());
        if (step == 0 && rank->rank() == 0) begin = CpuSeconds();
        if (step == kSteps && rank->rank() == 0) end = CpuSeconds();
        CHECK(rank->Barrier().ok());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return (end - begin) / kSteps;
}

void Run() {
  std::string text;
  for (int i = 0; i < 200000; ++i) {
    text += static_cast<char>('a' + i % 1000 * (i % 1000) % 23);
  }
  const auto corpus = MakeCorpus({{"a", {{"a", text}}}});
  CHECK(corpus.ok()) << corpus.status().ToString();
  // Those with several stages a rank want more micro-batches and layers; each
  // row is held to one rank with as many.
  const std::vector<Row> rows = {
      {{1, 1, 1}},
      {{2, 1, 1}},
      {{1, 2, 1}},
      {{1, 1, 2}},
      {{1, 1, 1}, PipelineKind::k1F1B, 4, 4},
      {{1, 1, 2}, PipelineKind::k1F1B, 4, 4},
      {{1, 1, 2}, PipelineKind::kInterleaved, 4, 4},
      {{1, 1, 2}, PipelineKind::kDualPipe, 4, 4},
      {{1, 1, 2}, PipelineKind::kDualPipeV, 4, 4},
  };
  std::vector<double> least(rows.size(), 1e9);
  for (int round = 0; round < kRounds; ++round) {
    for (size_t i = 0; i < rows.size(); ++i) {
      least[i] = std::min(least[i], Measure(*corpus, rows[i]));
    }
  }
  double alone = 0;
  for (size_t i = 0; i < rows.size(); ++i) {
    if (rows[i].shape.size() == 1) alone = least[i];
    std::cout << absl::StrFormat(
        "%s, %s, %d micro-batches, %d layers  %.3f s of CPU  %.3f\n",
        ToText(rows[i].shape), Name(rows[i].schedule), rows[i].micro_batches,
        rows[i].layers, least[i], least[i] / alone);
  }
}

}  // namespace
}  // namespace strata

int main() { strata::Run(); }
