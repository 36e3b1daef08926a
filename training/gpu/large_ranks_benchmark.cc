// bazel run --config=cuda -c opt //training/gpu:large_ranks_benchmark --
//     1,1,8,1 4,1,8,1 4,1,8,1,sharded 1,4,4,2
//
// A training step of the mixture of 7.05 B parameters
// (cuda/model/moe-7b.textproto) on ranks that are threads, a GPU each: random
// weights and tokens, BF16 state, products in BF16. Each argument is a way:
//
//   dp,ep,sequences,micro_batches[,sharded][,sums][,rows]
//
// sequences of 2,048 tokens a micro-batch, micro-batches a rank and step; the
// moments of weights that several ranks hold sharded over them; sums of
// gradients, rows of experts beside other work. A step is from
// all ranks' begin to the last one's end. `busiest` is what the rank of ep with
// the most rows has of an even share, mean of the gates; the Gini coefficient
// is of experts.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "core/base/check.h"
#include "core/base/status_macros.h"
#include "core/model/config.pb.h"
#include "core/model/preset.h"
#include "core/parallel/agree.h"
#include "core/parallel/communicator.h"
#include "core/parallel/load_stats.h"
#include "core/parallel/mesh.h"
#include "core/parallel/thread_communicator.h"
#include "cuda/model/moe_7b_text.h"
#include "cuda/nccl/nccl_communicator.h"
#include "training/config.pb.h"
#include "training/gpu/large_step.h"

namespace strata::gpu {
namespace {

constexpr int64_t kSeqLen = 2048;
constexpr int kWarm = 3, kSteps = 8;
constexpr absl::Duration kTimeout = absl::Seconds(60);

using Clock = std::chrono::steady_clock;

double MillisecondsSince(Clock::time_point start) {
  return 1e3 * std::chrono::duration<double>(Clock::now() - start).count();
}

struct Way {
  MeshShape shape;
  TrainConfig train;
  bool sharded = false, sums = false, rows = false;
};

Way WayOf(absl::string_view text) {
  const std::vector<std::string> parts = absl::StrSplit(text, ',');
  Way way;
  int sequences = 0, micro_batches = 0;
  CHECK(parts.size() >= 4 && absl::SimpleAtoi(parts[0], &way.shape.dp) &&
        absl::SimpleAtoi(parts[1], &way.shape.ep) &&
        absl::SimpleAtoi(parts[2], &sequences) &&
        absl::SimpleAtoi(parts[3], &micro_batches))
      << std::string(text) << "; want dp,ep,sequences,micro_batches[,more]";
  for (size_t i = 4; i < parts.size(); ++i) {
    CHECK(parts[i] == "sharded" || parts[i] == "sums" || parts[i] == "rows")
        << parts[i];
    way.sharded |= parts[i] == "sharded";
    way.sums |= parts[i] == "sums";
    way.rows |= parts[i] == "rows";
  }
  way.train.set_seq_len(kSeqLen);
  way.train.set_batch_size(sequences);
  way.train.set_accumulation(micro_batches);
  way.train.set_learning_rate(1e-4);
  way.train.set_beta1(0.9);
  way.train.set_beta2(0.999);
  way.train.set_adam_eps(1e-8);
  way.train.set_weight_decay(0.01);
  way.train.set_max_grad_norm(1);
  way.train.set_state_precision(TrainConfig::BF16);
  return way;
}

// How uneven experts are, and ranks that have an equal number of them.
void PrintLoads(const std::vector<std::vector<int64_t>>& gates, int ranks) {
  LoadStatsMean experts, shares;
  for (const std::vector<int64_t>& rows : gates) {
    std::vector<int64_t> share(ranks);
    for (size_t e = 0; e < rows.size(); ++e) {
      share[e * ranks / rows.size()] += rows[e];
    }
    experts.Add(ComputeLoadStats(rows));
    shares.Add(ComputeLoadStats(share));
  }
  std::printf("  Gini %.3f, busiest %.3f\n", experts.Mean().gini,
              shares.Mean().max_over_mean);
}

void PrintTimes(const char* what, const std::vector<double>& ms) {
  double mean = 0, square = 0;
  for (const double x : ms) mean += x / static_cast<double>(ms.size());
  for (const double x : ms) square += (x - mean) * (x - mean);
  std::printf("  %s %.2f +- %.2f ms (%.2f to %.2f)", what, mean,
              std::sqrt(square / static_cast<double>(ms.size() - 1)),
              *std::min_element(ms.begin(), ms.end()),
              *std::max_element(ms.begin(), ms.end()));
}

// The steps of one rank; the first prints.
absl::Status RunSteps(LargeStep& step, const Way& way, Communicator& host) {
  std::vector<double> all, gradients;
  double first_loss = 0;
  for (int i = 0; i < kWarm + kSteps; ++i) {
    RETURN_IF_ERROR(host.Barrier());
    const Clock::time_point start = Clock::now();
    RETURN_IF_ERROR(step.Gradients());
    const double half = MillisecondsSince(start);
    RETURN_IF_ERROR(step.Update());
    RETURN_IF_ERROR(host.Barrier());
    if (i == 0) first_loss = step.loss();
    if (i < kWarm) continue;
    all.push_back(MillisecondsSince(start));
    gradients.push_back(half);
  }
  if (host.rank() != 0) return absl::OkStatus();
  PrintTimes("step", all);
  PrintTimes(", gradients of rank 0", gradients);
  double mean = 0;
  for (const double x : all) mean += x / static_cast<double>(all.size());
  std::printf(", %.0f tokens/s a GPU\n",
              1e3 * static_cast<double>(step.tokens()) / mean);
  PrintLoads(step.ExpertLoads(), way.shape.ep);
  std::printf("  loss %.4f, after %d steps %.4f\n", first_loss,
              kWarm + kSteps - 1, step.loss());
  return absl::OkStatus();
}

absl::Status RunRank(const ModelConfig& model, const Way& way,
                     Communicator& host) {
  ASSIGN_OR_RETURN(const auto world,
                   NcclCommunicator::Join(host, host.rank(), kTimeout));
  ASSIGN_OR_RETURN(const auto mesh, Mesh::Create(*world, way.shape));
  LargeStepRank rank;
  rank.device = host.rank();
  rank.mesh = way.shape.size() > 1 ? mesh.get() : nullptr;
  rank.shard_optimizer = way.sharded;
  rank.overlap_sums = way.sums;
  rank.overlap_rows = way.rows;
  const auto step = LargeStep::Create(model, way.train, rank);
  // All have memory, or none begins.
  ASSIGN_OR_RETURN(const Agreement agreement, Agree(step.status(), host));
  RETURN_IF_ERROR(agreement.status);
  if (host.rank() == 0) {
    std::printf(
        "  a rank: %.2f B parameters, state %.1f GB, activations %.1f "
        "GB\n",
        1e-9 * static_cast<double>((*step)->num_parameters()),
        1e-9 * static_cast<double>((*step)->state_bytes()),
        1e-9 * static_cast<double>((*step)->activation_bytes()));
    std::fflush(stdout);
  }
  return RunSteps(**step, way, host);
}

void Run(const ModelConfig& model, const char* text) {
  const Way way = WayOf(text);
  std::printf("%s: %s, %d x %d sequences a rank%s\n", text,
              ToText(way.shape).c_str(),
              static_cast<int>(way.train.accumulation()),
              static_cast<int>(way.train.batch_size()),
              way.sharded ? ", moments sharded" : "");
  std::fflush(stdout);
  const auto hosts = ThreadCommunicators(way.shape.size(), kTimeout);
  std::vector<std::thread> threads;
  for (const auto& host : hosts) {
    threads.emplace_back([&, host = host.get()] {
      const absl::Status status = RunRank(model, way, *host);
      if (!status.ok()) {
        std::printf("  rank %d: %s\n", host->rank(), status.ToString().c_str());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::fflush(stdout);
}

}  // namespace
}  // namespace strata::gpu

int main(int argc, char** argv) {
  strata::ModelConfig model;
  CHECK(strata::ReadPreset(strata::Moe7bText(), "model", "moe-7b", model).ok());
  for (int i = 1; i < argc; ++i) strata::gpu::Run(model, argv[i]);
}
