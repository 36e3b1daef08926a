// bazel run --config=cuda -c opt //cuda/model:model_benchmark
//
// A mixture of experts of 7.05 B parameters (moe-7b.textproto; heads: with
// grouped-query attention, moe-7b-heads.textproto), random weights in BF16
// (int4: packed in INT4) and caches in F32 (cache:bf16, int8 or int4: in that),
// from the tokens of a pass to the next ones: from Run() to its return, inputs
// and results included. A pass is one captured graph.
//
//   limit_ms   the least a pass can take: the larger of its bytes over those a
//              second of a copy, and its operations over those of cuBLAS' BF16
//              product of 8192 x 8192 x 8192, both measured in this run
//   of_limit   that over the median time of a pass
//   J/token    of the whole board, by NVML, over all passes
//
// STRATA_PROFILE=1 adds the time of each operator, run one after another, so
// with the wait for each: to see what is large, not to add up.

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "benchmark/benchmark.h"
#include "core/base/check.h"
#include "core/model/config.pb.h"
#include "core/model/preset.h"
#include "core/quant/cache_format.h"
#include "cuda/model/energy_meter.h"
#include "cuda/model/model_program.h"
#include "cuda/model/moe_7b_text.h"
#include "cuda/testing/benchmark_set.h"
#include "cuda/testing/gpu_limits.h"

namespace strata::gpu {
namespace {

// Decoding goes on so far before it begins again.
constexpr int64_t kNewTokens = 64;

void PrintProfile(ModelProgram& model, int64_t context) {
  constexpr int kRuns = 5;
  model.program().EnableProfile();
  for (int i = 0; i < kRuns; ++i) CHECK(model.Run(context).ok());
  std::printf("operator, runs a pass, us a pass:\n");
  for (const Program::OpTime& op : model.program().Profile()) {
    std::printf("  %-28s %4d %10.1f\n", op.op.c_str(),
                static_cast<int>(op.runs / kRuns), 1e6 * op.seconds / kRuns);
  }
}

void BM_Model(benchmark::State& state, const std::string& name,
              const ModelWork& work, bool fuse) {
  ModelConfig config;
  CHECK(ReadPreset(Moe7bText(), "model", name, config).ok());
  auto created = ModelProgram::Create(config, work, fuse);
  CHECK(created.ok()) << created.status().ToString();
  ModelProgram& model = **created;
  const auto run = [&](int64_t i) {
    const absl::Status status =
        model.Run(work.context > 0 ? work.context + i % kNewTokens : 0);
    CHECK(status.ok()) << status.ToString();
  };
  for (int i = 0; i < 3; ++i) run(i);  // Alone, captured, replayed.

  const absl::StatusOr<EnergyMeter> meter =
      EnergyMeter::Open(model.backend().options().device);
  std::vector<double> seconds;
  const double before = meter.ok() ? meter->Joules() : 0;
  int64_t i = 0;
  for (auto _ : state) {
    const auto start = std::chrono::steady_clock::now();
    run(i++);
    seconds.push_back(
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start)
            .count());
    state.SetIterationTime(seconds.back());
  }
  const double joules = meter.ok() ? meter->Joules() - before : 0;
  std::sort(seconds.begin(), seconds.end());
  const double median = seconds[seconds.size() / 2];
  const auto tokens = static_cast<double>(work.batch * work.tokens);
  const double bytes = model.Bytes(work.context), flops = model.Flops();
  const double limit =
      std::max(bytes / CopyBandwidth(), flops / BlasBf16Peak());
  state.counters["median_ms"] = 1e3 * median;
  state.counters["tokens/s"] = tokens / median;
  state.counters["limit_ms"] = 1e3 * limit;
  state.counters["of_limit"] = limit / median;
  state.counters["GB"] = 1e-9 * bytes;
  state.counters["TFLOP"] = 1e-12 * flops;
  if (meter.ok()) {
    state.counters["J/token"] =
        joules / (tokens * static_cast<double>(seconds.size()));
  } else {
    state.SetLabel(std::string(meter.status().message()));
  }
  if (std::getenv("STRATA_PROFILE") != nullptr) {
    PrintProfile(model, work.context);
  }
}

void Add(const ModelWork& work, bool fuse, bool heads = false) {
  const std::string name = work.context > 0
                               ? absl::StrCat("BM_Decode/batch:", work.batch,
                                              "/context:", work.context)
                               : absl::StrCat("BM_Prefill/batch:", work.batch,
                                              "/tokens:", work.tokens);
  benchmark::RegisterBenchmark(
      absl::StrCat(name, heads ? "/heads" : "", fuse ? "" : "/unfused",
                   work.cache == CacheFormat::kF32
                       ? ""
                       : absl::StrCat("/cache:", ToText(work.cache)),
                   work.packed ? "/int4" : "")
          .c_str(),
      [=](benchmark::State& state) {
        BM_Model(state, heads ? "moe-7b-heads" : "moe-7b", work, fuse);
      })
      ->UseManualTime()
      ->MinTime(1.0)
      ->Unit(benchmark::kMillisecond);
}

void AddAll() {
  for (const bool fuse : {true, false}) {
    for (const int64_t batch : {1, 8, 16, 32, 64}) {
      Add({batch, 1, 512, 512 + kNewTokens}, fuse);
      if (fuse) Add({batch, 1, 512, 512 + kNewTokens, /*packed=*/true}, fuse);
    }
    for (const int64_t batch : {1, 8, 16, 32, 64}) {
      ModelWork work = {batch, 1, 512, 512 + kNewTokens};
      work.cache = CacheFormat::kBF16;
      Add(work, fuse);
      work.packed = true;
      if (fuse) Add(work, fuse);
    }
    for (const int64_t batch : {1, 8, 32}) {
      Add({batch, 1, 512, 512 + kNewTokens}, fuse, /*heads=*/true);
      if (!fuse) continue;
      Add({batch, 1, 512, 512 + kNewTokens, /*packed=*/true}, fuse, true);
    }
    for (const CacheFormat cache :
         {CacheFormat::kBF16, CacheFormat::kInt8, CacheFormat::kInt4}) {
      for (const int64_t batch : {1, 8, 32}) {
        ModelWork work = {batch, 1, 512, 512 + kNewTokens};
        work.cache = cache;
        Add(work, fuse, /*heads=*/true);
        if (cache != CacheFormat::kBF16) Add(work, fuse);
      }
    }
    // Where keys and values are most of what is read.
    for (const CacheFormat cache : {CacheFormat::kF32, CacheFormat::kBF16,
                                    CacheFormat::kInt8, CacheFormat::kInt4}) {
      ModelWork work = {32, 1, 3584, 3584 + kNewTokens};
      work.cache = cache;
      for (const bool heads : {false, true}) {
        if (fuse) Add(work, fuse, heads);
      }
    }
    Add({1, 512, 0, 0}, fuse);
    Add({1, 4096, 0, 0}, fuse);
    Add({4, 4096, 0, 0}, fuse);
  }
}

const BenchmarkSet kSet(AddAll);

}  // namespace
}  // namespace strata::gpu
