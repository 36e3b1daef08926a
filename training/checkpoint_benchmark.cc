// bazel run -c opt //training:checkpoint_benchmark
//
// What a checkpoint of several ranks (threads) costs: how long training stands
// still, and by how much the process's memory grows the while. 35 million
// parameters, so 140 MB of weights and 280 MB of moments, in the folder for
// temporary files.

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "core/base/check.h"
#include "core/model/config.h"
#include "core/parallel/mesh.h"
#include "core/parallel/thread_communicator.h"
#include "nlohmann/json.hpp"
#include "training/checkpoint/checkpoint_saver.h"
#include "training/config.h"
#include "training/data/corpus.h"
#include "training/trainer.h"

namespace strata {
namespace {

constexpr int kCheckpoints = 3;

double Now() {
  return std::chrono::duration<double>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

// Of /proc/self/status, in MB: "VmRSS", "VmHWM".
double Memory(const std::string& key) {
  std::ifstream file("/proc/self/status");
  std::string word;
  double kilobytes = 0;
  while (file >> word) {
    if (word == key + ":") file >> kilobytes;
  }
  return kilobytes * 1024 / 1e6;
}

void ForgetPeak() { std::ofstream("/proc/self/clear_refs") << 5; }

ModelConfig Model() {
  ModelConfig model = *ModelPreset("demo");
  model.set_d_model(256);
  model.set_num_layers(4);
  model.mutable_moe()->set_expert_width(256);
  HierarchicalRouterConfig& tiers =
      *model.mutable_moe()->mutable_hierarchical();
  for (int i = 0; i < tiers.tier_experts_size(); ++i) {
    tiers.set_tier_experts(i, 16);
  }
  return model;
}

void Measure(const Corpus& corpus, const MeshShape& shape) {
  TrainConfig train = *TrainPreset("demo");
  train.set_accumulation(shape.dp * shape.ep);
  train.set_batch_size(1);
  train.set_seq_len(32);
  train.set_checkpoints_to_keep(1);
  const std::string runs = absl::StrCat(
      std::filesystem::temp_directory_path().string(), "/checkpoint_benchmark");
  const auto world = ThreadCommunicators(shape.size(), absl::Seconds(300));
  std::vector<std::thread> threads;
  for (const auto& rank : world) {
    threads.emplace_back([&, rank = rank.get()] {
      const bool first = rank->rank() == 0;
      const auto mesh = Mesh::Create(*rank, shape);
      CHECK(mesh.ok()) << mesh.status().ToString();
      TrainerOptions options;
      options.mesh = mesh->get();
      const auto trainer = Trainer::Create(Model(), train, &corpus,
                                           /*num_threads=*/1, options);
      CHECK(trainer.ok()) << trainer.status().ToString();
      for (int i = 0; i < kCheckpoints; ++i) {
        CHECK((*trainer)->Step().ok());
        CHECK(rank->Barrier().ok());
        const double before = Memory("VmRSS");
        if (first) ForgetPeak();
        CHECK(rank->Barrier().ok());
        const double begin = Now();
        CHECK((*trainer)->BeginCheckpoint(runs, nlohmann::json::object()).ok());
        CHECK(rank->Barrier().ok());
        const double still = Now() - begin;
        int64_t steps = 0;
        std::optional<SaveReport> report;
        while (!report) {
          CHECK((*trainer)->Step().ok());
          ++steps;
          auto polled = (*trainer)->PollCheckpoint(/*wait=*/false);
          CHECK(polled.ok()) << polled.status().ToString();
          report = *std::move(polled);
        }
        CHECK(report->status.ok()) << report->status.ToString();
        if (!first) continue;
        std::cout << absl::StrFormat(
            "%s: still for %.3f s, saved after %.1f s and %d steps; a copy of "
            "%.0f MB a rank; %.0f MB of %.0f MB more\n",
            ToText(shape), still, report->seconds, steps,
            static_cast<double>(report->snapshot_bytes) / 1e6,
            Memory("VmHWM") - before, before);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::filesystem::remove_all(runs);
}

void Run() {
  std::string text;
  for (int i = 0; i < 200000; ++i) {
    text += static_cast<char>('a' + i % 1000 * (i % 1000) % 23);
  }
  const auto corpus = MakeCorpus({{"a", {{"a", text}}}});
  CHECK(corpus.ok()) << corpus.status().ToString();
  for (const MeshShape& shape :
       {MeshShape{2, 1, 1}, MeshShape{1, 2, 1}, MeshShape{1, 4, 1}}) {
    Measure(*corpus, shape);
  }
}

}  // namespace
}  // namespace strata

int main() { strata::Run(); }
