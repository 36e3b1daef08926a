// bazel run -c opt //core/passes/fuse:fuse_benchmark
//
// A step of a model fused against the same step of basic operators, by the
// kernels that serving uses: the two take turns, and the ratio is the median of
// the ratios of neighbours, so that what else the machine does cancels.

#include <time.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "benchmark/benchmark.h"
#include "core/base/check.h"
#include "core/base/thread_pool.h"
#include "core/cpu/batch_invariant.h"
#include "core/model/config.h"
#include "core/model/config.pb.h"
#include "core/passes/fuse/fuse_models.h"
#include "core/runtime/program.h"

namespace strata {
namespace {

using Clock = std::chrono::steady_clock;

// A block as those of a model of a billion parameters: 64 experts of which a
// token uses six.
ModelConfig Moe1bBlock() {
  ModelConfig config;
  config.set_vocab_size(64);
  config.set_d_model(1024);
  config.set_num_layers(1);
  config.set_max_seq_len(512);
  config.set_norm_eps(1e-6);
  config.set_tie_embeddings(true);
  AttentionConfig& attention = *config.mutable_attention();
  attention.set_num_heads(16);
  attention.set_num_kv_heads(4);
  attention.set_head_dim(64);
  attention.set_rope_theta(10000);
  config.mutable_moe()->set_expert_width(384);
  FlatRouterConfig& router = *config.mutable_moe()->mutable_flat();
  router.set_num_experts(64);
  router.set_k(6);
  router.set_normalize(true);
  return config;
}

ModelConfig DenseBlock() {
  ModelConfig config = Moe1bBlock();
  config.clear_moe();
  config.set_num_dense_layers(1);
  config.set_dense_width(2816);
  return config;
}

// Four small blocks: what operators cost by their number shows here.
ModelConfig NarrowBlocks() {
  ModelConfig config = Moe1bBlock();
  config.set_d_model(128);
  config.set_num_layers(4);
  AttentionConfig& attention = *config.mutable_attention();
  attention.set_num_heads(4);
  attention.set_num_kv_heads(2);
  attention.set_head_dim(32);
  config.mutable_moe()->set_expert_width(64);
  config.mutable_moe()->mutable_flat()->set_num_experts(16);
  config.mutable_moe()->mutable_flat()->set_k(2);
  return config;
}

ModelConfig Preset(const char* name) {
  const absl::StatusOr<ModelConfig> config = ModelPreset(name);
  CHECK(config.ok()) << config.status();
  return *config;
}
ModelConfig Demo() { return Preset("demo"); }

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// Of all threads.
double CpuMicroseconds() {
  timespec time;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return 1e6 * static_cast<double>(time.tv_sec) +
         1e-3 * static_cast<double>(time.tv_nsec);
}

double Microseconds(StepModel& model, int64_t tokens) {
  const Clock::time_point start = Clock::now();
  CHECK(model.Run(tokens).ok());
  return std::chrono::duration<double, std::micro>(Clock::now() - start)
      .count();
}

void PrintProfile(const Program& program) {
  for (const Program::OpTime& op : program.Profile()) {
    std::fprintf(stderr, "%-20s %9.1f us a run, %6.2f GFLOP/s\n", op.op.c_str(),
                 1e6 * op.seconds / static_cast<double>(op.runs),
                 op.flops / op.seconds / 1e9);
  }
}

void BM_Step(benchmark::State& state, ModelConfig (*config)(), bool narrow) {
  const int64_t tokens = state.range(0);
  StepOptions options;
  options.cache_blocks = 3 * 128;
  options.max_tokens = tokens;
  options.narrow = narrow;
  options.num_threads = NumUsableCores();
  options.fuse = false;
  auto plain = StepModel::Create(config(), BatchInvariantCpuKernels(), options);
  CHECK(plain.ok()) << plain.status();
  options.fuse = true;
  auto fused = StepModel::Create(config(), BatchInvariantCpuKernels(), options);
  CHECK(fused.ok()) << fused.status();
  const bool profile = std::getenv("STRATA_PROFILE") != nullptr;
  for (const auto& model : {plain->get(), fused->get()}) {
    Microseconds(*model, tokens);
    if (profile) model->program().EnableProfile();
  }
  std::vector<double> of_plain, of_fused, ratio, cpu_ratio;
  for (auto _ : state) {
    const double begin = CpuMicroseconds();
    of_plain.push_back(Microseconds(**plain, tokens));
    const double middle = CpuMicroseconds();
    of_fused.push_back(Microseconds(**fused, tokens));
    cpu_ratio.push_back((middle - begin) / (CpuMicroseconds() - middle));
    ratio.push_back(of_plain.back() / of_fused.back());
    state.SetIterationTime(1e-6 * of_fused.back());
  }
  if (profile) {
    PrintProfile((*plain)->program());
    std::fprintf(stderr, "fused:\n");
    PrintProfile((*fused)->program());
  }
  state.counters["unfused_us"] = Median(of_plain);
  state.counters["fused_us"] = Median(of_fused);
  state.counters["times"] = Median(ratio);
  state.counters["cpu_times"] = Median(cpu_ratio);
  state.counters["unfused_KB"] =
      static_cast<double>((*plain)->program().plan().unshared_bytes) / 1e3;
  state.counters["fused_KB"] =
      static_cast<double>((*fused)->program().plan().arena_bytes) / 1e3;
}

// Decoding of one and of many sequences, prefill of a chunk.
void Tokens(benchmark::internal::Benchmark* b) {
  b->ArgName("tokens")->Arg(1)->Arg(8)->Arg(64)->Arg(256);
  b->UseManualTime()->Unit(benchmark::kMicrosecond);
}
BENCHMARK_CAPTURE(BM_Step, moe_1b_bf16, Moe1bBlock, true)->Apply(Tokens);
BENCHMARK_CAPTURE(BM_Step, dense_bf16, DenseBlock, true)->Apply(Tokens);
BENCHMARK_CAPTURE(BM_Step, narrow, NarrowBlocks, false)->Apply(Tokens);
BENCHMARK_CAPTURE(BM_Step, demo, Demo, false)->Apply(Tokens);

}  // namespace
}  // namespace strata

BENCHMARK_MAIN();
