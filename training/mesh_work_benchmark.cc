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
#include "core/parallel/mesh.h"
#include "core/parallel/thread_communicator.h"
#include "training/config.h"
#include "training/data/corpus.h"
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

// CPU seconds of a step of the demo, all ranks together; its first is left out.
double Measure(const Corpus& corpus, const MeshShape& shape) {
  TrainConfig train = *TrainPreset("demo");
  train.set_accumulation(2);
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
      const auto trainer = Trainer::Create(*ModelPreset("demo"), train, &corpus,
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
  const std::vector<MeshShape> shapes = {
      {1, 1, 1}, {2, 1, 1}, {1, 2, 1}, {1, 1, 2}};
  std::vector<double> least(shapes.size(), 1e9);
  for (int round = 0; round < kRounds; ++round) {
    for (size_t i = 0; i < shapes.size(); ++i) {
      least[i] = std::min(least[i], Measure(*corpus, shapes[i]));
    }
  }
  for (size_t i = 0; i < shapes.size(); ++i) {
    std::cout << absl::StrFormat("%s  %.3f s of CPU  %.3f\n", ToText(shapes[i]),
                                 least[i], least[i] / least[0]);
  }
}

}  // namespace
}  // namespace strata

int main() { strata::Run(); }
