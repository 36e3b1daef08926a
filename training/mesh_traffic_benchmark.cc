// bazel run -c opt //training:mesh_traffic_benchmark
//
// What a rank sends in a step, by dimension of the mesh, against the number of
// ranks; and the law that fits: bytes = a (n - 1) / n, a by least squares.
//
//   dp, ep       two micro-batches a rank, whatever their number
//   dp sharded   the same with sharded moments (ZeRO-1)
//   pp           eight micro-batches, that pass all stages

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <iostream>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "core/base/check.h"
#include "core/base/status_macros.h"
#include "core/model/config.h"
#include "core/parallel/communicator.h"
#include "core/parallel/mesh.h"
#include "core/parallel/thread_communicator.h"
#include "core/parallel/traffic_meter.h"
#include "training/config.h"
#include "training/data/corpus.h"
#include "training/trainer.h"

namespace strata {
namespace {

struct Dimension {
  std::string name;
  std::string group;  // Whose traffic counts.
  int MeshShape::*extent;
  bool shard_optimizer = false;
};

// The traffic of the group in a step of each rank, the mean.
absl::StatusOr<Traffic> Measure(const Dimension& dimension, int n) {
  ModelConfig model = *ModelPreset("demo");
  model.set_d_model(64);
  model.set_num_layers(8);  // For 8 stages.
  TrainConfig train = *TrainPreset("demo");
  train.set_seq_len(64);
  train.set_batch_size(4);
  train.set_accumulation(dimension.name == "pp" ? 8 : 2 * n);
  std::string text;
  for (int i = 0; i < 20000; ++i) text += static_cast<char>('a' + i * i % 23);
  ASSIGN_OR_RETURN(const Corpus corpus, MakeCorpus({{"a", {{"a", text}}}}));
  MeshShape shape;
  shape.*dimension.extent = n;
  const auto world = ThreadCommunicators(n, absl::Seconds(60));
  std::vector<absl::StatusOr<Traffic>> of_rank(n, Traffic());
  const auto run = [&](Communicator& rank) -> absl::StatusOr<Traffic> {
    TrafficMeter meter;
    const std::unique_ptr<Communicator> counted = WithTraffic(rank, meter);
    ASSIGN_OR_RETURN(const std::unique_ptr<Mesh> mesh,
                     Mesh::Create(*counted, shape));
    TrainerOptions options;
    options.mesh = mesh.get();
    options.shard_optimizer = dimension.shard_optimizer;
    ASSIGN_OR_RETURN(const std::unique_ptr<Trainer> trainer,
                     Trainer::Create(model, train, &corpus,
                                     /*num_threads=*/1, options));
    meter.Reset();
    RETURN_IF_ERROR(trainer->Step().status());
    const auto it = meter.traffic().find(dimension.group);
    return it == meter.traffic().end() ? Traffic() : it->second;
  };
  std::vector<std::thread> threads;
  for (int r = 0; r < n; ++r) {
    threads.emplace_back([&, r] { of_rank[r] = run(*world[r]); });
  }
  for (std::thread& thread : threads) thread.join();
  Traffic mean;
  for (const absl::StatusOr<Traffic>& one : of_rank) {
    RETURN_IF_ERROR(one.status());
    mean.calls = std::max(mean.calls, one->calls);
    mean.steps = std::max(mean.steps, one->steps);
    mean.bytes += one->bytes / n;
  }
  return mean;
}

absl::Status Run() {
  const std::vector<Dimension> dimensions = {
      {"dp", "batch", &MeshShape::dp},
      {"dp sharded", "batch", &MeshShape::dp, /*shard_optimizer=*/true},
      {"ep", "ep", &MeshShape::ep},
      {"pp", "pp", &MeshShape::pp}};
  for (const Dimension& dimension : dimensions) {
    std::vector<std::pair<double, double>> points;  // (n - 1) / n and bytes.
    double xy = 0, xx = 0;
    for (const int n : {1, 2, 4, 8}) {
      ASSIGN_OR_RETURN(const Traffic traffic, Measure(dimension, n));
      std::cout << absl::StrFormat(
          "%s %d  calls %5d  steps %6d  kilobytes %10.1f\n", dimension.name, n,
          traffic.calls, traffic.steps, traffic.bytes / 1e3);
      const double x = (n - 1.0) / n;
      points.push_back({x, traffic.bytes});
      xy += x * traffic.bytes;
      xx += x * x;
    }
    const double a = xy / xx;
    double off = 0;
    for (const auto& [x, bytes] : points) {
      if (x > 0) off = std::max(off, std::abs(bytes / (a * x) - 1));
    }
    std::cout << absl::StrFormat(
        "%s: %.1f kilobytes (n - 1) / n, off by %.1f %% at most\n",
        dimension.name, a / 1e3, 100 * off);
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace strata

int main() {
  const absl::Status status = strata::Run();
  CHECK(status.ok()) << status.ToString();
}
