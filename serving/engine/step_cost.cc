#include "serving/engine/step_cost.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "core/base/check.h"
#include "core/base/thread_pool.h"
#include "core/cpu/row_products.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/model/config.pb.h"
#include "core/model/decoder.h"
#include "core/ops/embedding.h"
#include "core/ops/grouped_matmul.h"
#include "core/ops/matmul.h"
#include "core/runtime/state_store.h"
#include "core/tensor/bfloat16.h"
#include "core/tensor/dtype.h"
#include "core/testing/read_bandwidth.h"
#include "core/testing/sgemm_peak.h"

namespace strata {
namespace {

// FLOP/s of the engine's product, a piece of 64 rows on each thread at once.
double RowProductPeak(ThreadPool& pool) {
  constexpr int64_t kRows = 64, kColumns = 64, kK = 512;
  const std::vector<float> a(kRows * kK, 0.5f);
  const std::vector<BFloat16> b(kColumns * kK, RoundToBFloat16(0.5f));
  std::vector<std::vector<float>> c(pool.num_threads());
  for (std::vector<float>& x : c) x.resize(kRows * kColumns);
  constexpr int64_t kTimes = 400;
  double best = 0;
  for (int repeat = 0; repeat < 15; ++repeat) {
    const absl::Time start = absl::Now();
    pool.ParallelFor(pool.num_threads(), [&](int64_t i) {
      RowProductArgs<float, BFloat16> g;
      g.m = kRows, g.n = kColumns, g.k = g.lda = g.ldb = kK;
      g.a = a.data(), g.b = b.data(), g.c = c[i].data(), g.ldc = kColumns;
      for (int64_t time = 0; time < kTimes; ++time) {
        NarrowRowProducts::Get().by_dots(g);
      }
    });
    const double flops =
        2.0 * kRows * kColumns * kK * kTimes * pool.num_threads();
    best = std::max(best, flops / absl::ToDoubleSeconds(absl::Now() - start));
  }
  return best;
}

}  // namespace

StepCost CostOfStep(const ModelConfig& config, const StateStore& state,
                    int64_t batch, int64_t context) {
  GraphBuilder builder;
  DecoderOptions options;
  options.mode = DecoderOptions::Mode::kGenerate;
  options.max_tokens = options.max_sequences = options.max_logits = batch;
  BuildDecoder(builder, config, options);
  const absl::StatusOr<Graph> graph = builder.Finish();
  CHECK(graph.ok()) << graph.status();
  StepCost cost;
  absl::flat_hash_set<ValueId> counted;
  for (const Node& node : graph->nodes()) {
    const bool grouped = node.op->name == kGroupedMatMul.name;
    if (grouped || node.op->name == kMatMul.name) {
      cost.flops += CostOf(*graph, node, Binding()).flops;
    }
    if (node.op->name == kEmbedding.name) continue;  // A row for each token.
    for (const ValueId input : node.inputs) {
      if (input == kNone || graph->value(input).role != Role::kParameter ||
          !counted.insert(input).second) {
        continue;
      }
      const Value& weight = graph->value(input);
      double share = 1;
      if (grouped) {
        const auto experts = static_cast<double>(weight.type.dims[0].bound);
        const auto rows = static_cast<double>(
            graph->value(node.inputs[0]).type.dims[0].bound);
        share = 1 - std::pow(1 - 1 / experts, rows);
      }
      cost.bytes +=
          share * static_cast<double>(state.Get(weight.name).num_bytes());
    }
  }
  const AttentionConfig& a = config.attention();
  const auto tokens = static_cast<double>(batch * context);
  cost.bytes +=
      tokens *
      static_cast<double>(config.num_layers() * 2 * a.num_kv_heads() *
                          a.head_dim() * static_cast<int64_t>(sizeof(float)));
  cost.flops += tokens * static_cast<double>(config.num_layers() * 4 *
                                             a.num_heads() * a.head_dim());
  return cost;
}

MachineLimits MeasureMachine(ThreadPool& pool) {
  MachineLimits machine;
  const ReadBandwidth read(pool);
  // The middle one of five passes: what others leave of it at present.
  std::vector<double> bandwidth;
  for (int pass = 0; pass < 5; ++pass) bandwidth.push_back(read.Measure());
  std::sort(bandwidth.begin(), bandwidth.end());
  machine.bandwidth = bandwidth[2];
  machine.peak = std::max(SgemmPeak(), RowProductPeak(pool));
  return machine;
}

double RateLimit(const StepCost& cost, int64_t batch,
                 const MachineLimits& machine) {
  return static_cast<double>(batch) /
         std::max(cost.bytes / machine.bandwidth, cost.flops / machine.peak);
}

}  // namespace strata
