// bazel run -c opt //tools/balance:live_balance_benchmark -- EP WHEN SPARE
//                                      [STEPS [SEED [DEVICE [PACKAGES]]]]
//
// The spread of utilisation over EP ranks (threads; with DEVICE cuda each has a
// GPU) of a real run on skewed
// data, as claim C1 has it (docs/claims_c1.md): its model, whose router nobody
// keeps even, its corpus and its windows of 12 steps, of which the first
// quarter is left out; rows of each rank under the placements in force at each
// step. WHEN is --rebalance's, SPARE --spare-experts'. PACKAGES is where the
// packages of the corpus are installed, if not at /.

#include <algorithm>
#include <cstdint>
#include <iostream>
#include <memory>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "core/base/check.h"
#include "core/monitor/rank_balance.h"
#include "core/parallel/communicator.h"
#include "core/parallel/mesh.h"
#include "core/parallel/placement.h"
#include "core/parallel/thread_communicator.h"
#include "tools/scorecard/skewed_routing.h"
#include "tools/strata/cuda_device.h"
#include "training/balance/balance_rule.h"
#include "training/balance/live_balancer.h"
#include "training/config.h"
#include "training/data/corpus.h"
#include "training/data/demo_corpus.h"
#include "training/trainer.h"

namespace strata {
namespace {

constexpr int64_t kWindow = 12;  // Steps.

struct Study {
  int ep = 8;
  BalanceRule rule;
  int64_t steps = 480;
  uint64_t seed = 1;
  bool on_gpus = false;
  std::string packages = "/";
};

// What the ranks did, window by window.
class Ranks {
 public:
  explicit Ranks(const Study& study) : study_(study) {}

  void Add(const Trainer& trainer, std::vector<Placement> placements,
           const StepMetrics& metrics) {
    const ExpertMeter& meter = trainer.meter();
    rows_.resize(meter.routers().size(), std::vector<double>(study_.ep, 0));
    for (size_t g = 0; g < rows_.size(); ++g) {
      const std::vector<int64_t>& load = meter.load(static_cast<int>(g));
      const PlacementShape shape =
          SlotShape(static_cast<int>(load.size()),
                    SlotsOfRanks(study_.ep, study_.rule.spare));
      const std::vector<double> of_ranks =
          GpuLoads(shape, placements.empty() ? InOrder(shape) : placements[g],
                   std::vector<double>(load.begin(), load.end()));
      for (int r = 0; r < study_.ep; ++r) rows_[g][r] += of_ranks[r];
    }
    seconds_.push_back(metrics.seconds);
    for (const ExpertMove& move : metrics.moves) {
      experts_ += move.experts;
      bytes_ += move.bytes;
      moving_ += move.seconds;
    }
    loss_ = metrics.loss;
    if (metrics.step % kWindow != 0) return;
    if (metrics.step > study_.steps / 4) {
      for (const std::vector<double>& rows : rows_) {
        spread_ += UtilisationSpread(rows);
        const double mean =
            std::accumulate(rows.begin(), rows.end(), 0.0) / study_.ep;
        utilisation_ += mean / *std::max_element(rows.begin(), rows.end());
        ++count_;
      }
    }
    rows_.clear();
  }

  void Print() {
    std::nth_element(seconds_.begin(), seconds_.begin() + seconds_.size() / 2,
                     seconds_.end());
    std::cout << absl::StrFormat(
        "spread %.4f  mean utilisation %.3f  %d experts moved, %.2f MB, "
        "%.2f s of %.1f s  median step %.1f ms  last loss %.17g\n",
        spread_ / count_, utilisation_ / count_, experts_, 1e-6 * bytes_,
        moving_, std::accumulate(seconds_.begin(), seconds_.end(), 0.0),
        1e3 * seconds_[seconds_.size() / 2], loss_);
  }

 private:
  const Study study_;
  std::vector<std::vector<double>> rows_;  // [gates][ranks], of the window
  std::vector<double> seconds_;            // [steps]
  double spread_ = 0, utilisation_ = 0, moving_ = 0, loss_ = 0;
  int64_t count_ = 0, experts_ = 0, bytes_ = 0;
};

void Run(const Study& study) {
  const auto demo = LoadDemoCorpus(study.packages);
  CHECK(demo.ok()) << demo.status().ToString();
  const Corpus corpus = SkewedCorpus(*demo, study.seed);
  TrainConfig train = *TrainPreset("demo");
  // As many tokens a step, for any number of ranks.
  const int64_t sequences = train.batch_size() * train.accumulation();
  CHECK_EQ(sequences % study.ep, 0);
  train.set_accumulation(study.ep);
  train.set_batch_size(sequences / study.ep);
  train.set_steps(study.steps);
  train.set_seed(study.seed);
  Ranks ranks(study);
  const MeshShape shape = {1, study.ep, 1};
  const auto world = ThreadCommunicators(shape.size(), absl::Seconds(60));
  std::vector<std::thread> threads;
  for (const auto& rank : world) {
    threads.emplace_back([&, rank = rank.get()] {
      Communicator* world = rank;
      std::unique_ptr<Communicator> gpus;
      if (study.on_gpus) {
        auto joined = JoinGpus(*rank, rank->rank(), absl::Seconds(60));
        CHECK(joined.ok()) << joined.status().ToString();
        gpus = *std::move(joined);
        world = gpus.get();
      }
      const auto mesh = Mesh::Create(*world, shape);
      CHECK(mesh.ok()) << mesh.status().ToString();
      TrainerOptions options;
      options.mesh = mesh->get();
      if (study.on_gpus) {
        options.backend = [&] {
          return MakeCudaBackend({"fp32", rank->rank(), mesh->get()});
        };
      }
      options.balance = study.rule;
      const auto trainer = Trainer::Create(SkewedModel(), train, &corpus,
                                           /*num_threads=*/1, options);
      CHECK(trainer.ok()) << trainer.status().ToString();
      while (!(*trainer)->done()) {
        const LiveBalancer* const balancer = (*trainer)->balancer();
        std::vector<Placement> placements;
        if (balancer != nullptr) placements = balancer->placements();
        const auto metrics = (*trainer)->Step();
        CHECK(metrics.ok()) << metrics.status().ToString();
        if (rank->rank() == 0) ranks.Add(**trainer, placements, *metrics);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  ranks.Print();
}

}  // namespace
}  // namespace strata

int main(int argc, char** argv) {
  strata::Study study;
  if (argc > 2) {
    const auto rule = strata::ParseBalanceRule(argv[2]);
    CHECK(rule.ok()) << rule.status().ToString();
    study.rule = *rule;
  }
  CHECK(argc > 3 && absl::SimpleAtoi(argv[1], &study.ep) &&
        absl::SimpleAtoi(argv[3], &study.rule.spare) &&
        (argc < 5 || absl::SimpleAtoi(argv[4], &study.steps)) &&
        (argc < 6 || absl::SimpleAtoi(argv[5], &study.seed)))
      << "want EP WHEN SPARE [STEPS [SEED [DEVICE [PACKAGES]]]]";
  if (argc > 6) {
    const std::string device = argv[6];
    CHECK(device == "cpu" || device == "cuda") << "DEVICE is cpu or cuda";
    study.on_gpus = device == "cuda";
  }
  if (argc > 7) study.packages = argv[7];
  strata::Run(study);
}
