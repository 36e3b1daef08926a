// Attention alone over caches of all formats, in turns, on one thread.

#include <chrono>
#include <cmath>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/base/random.h"
#include "core/base/status_macros.h"
#include "core/cpu/batch_invariant.h"
#include "core/cpu/cpu_backend.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/ops/attention.h"
#include "core/ops/paged_attention.h"
#include "core/passes/pack_caches.h"
#include "core/runtime/program.h"
#include "core/runtime/state_store.h"
#include "core/tensor/dtype.h"
#include "core/tensor/tensor.h"
#include "tools/scorecard/quant/cache_study.h"

namespace strata {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kBlockSize = 16;

// One layer's attention, whose cache holds a text in blocks that lie apart.
class OneLayer {
 public:
  static absl::StatusOr<std::unique_ptr<OneLayer>> Create(
      const AttentionShape& shape, const CacheOptions& cache) {
    auto layer = std::unique_ptr<OneLayer>(new OneLayer(shape));
    ASSIGN_OR_RETURN(Graph graph, layer->Build());
    ASSIGN_OR_RETURN(graph, PackCaches(graph, cache));
    ASSIGN_OR_RETURN(
        layer->program_,
        Program::Compile(std::move(graph), layer->backend_, layer->state_));
    layer->Fill();
    RETURN_IF_ERROR(layer->program_->Run());
    *layer->program_->Input("num_rows").as<int32_t>() = 0;
    return layer;
  }

  absl::Status Run() { return program_->Run(); }

  std::vector<float> Result() const {
    const TensorView o = program_->Output("o");
    return {o.as<float>(), o.as<float>() + o.num_elements()};
  }

  int64_t BytesPerToken() const {
    int64_t bytes = 0;
    for (const char* const name : {"k", "v"}) {
      const TensorView& cache = state_.Peek(name);
      bytes += cache.num_bytes() / cache.dim(0);
    }
    return bytes;
  }

 private:
  explicit OneLayer(const AttentionShape& shape)
      : shape_(shape),
        blocks_((shape.context + kBlockSize - 1) / kBlockSize),
        backend_(/*num_threads=*/1, BatchInvariantCpuKernels()),
        state_(backend_) {}

  absl::StatusOr<Graph> Build() const {
    GraphBuilder b;
    const int64_t width = shape_.num_kv_heads * shape_.head_dim;
    const Dim t = Ragged(shape_.context, b.Input("num_rows", DType::kI32, {}));
    const ValueId row = b.Input("row", DType::kI32, {t});
    const auto cache = [&](const char* name, const char* rows) {
      const ValueId state = b.State(
          name, DType::kF32, {Static(blocks_ * kBlockSize), Static(width)});
      CacheWrite(b, state, b.Input(rows, DType::kF32, {t, Static(width)}), row);
      return state;
    };
    const ValueId k = cache("k", "k_rows"), v = cache("v", "v_rows");
    Pages pages;
    pages.block_size = kBlockSize;
    pages.block_table =
        b.Input("table", DType::kI32, {Static(1), Static(blocks_)});
    pages.sequence = b.Input("sequence", DType::kI32, {Static(1)});
    const ValueId q =
        b.Input("q", DType::kF32,
                {Static(1), Static(shape_.num_heads * shape_.head_dim)});
    b.Output(
        "o",
        PagedAttention(
            b, q, k, v, pages, b.Input("position", DType::kI32, {Static(1)}),
            {shape_.num_heads, shape_.num_kv_heads,
             1 / std::sqrt(static_cast<double>(shape_.head_dim)), 0}));
    return b.Finish();
  }

  void Fill() {
    Random random(/*seed=*/1, /*stream=*/0);
    const auto normal = [&](const char* name, double scale) {
      for (float& x : program_->Input(name).span<float>()) {
        x = static_cast<float>(scale * random.Normal());
      }
    };
    normal("k_rows", 1);
    normal("v_rows", 1);
    normal("q", shape_.spread);
    *program_->Input("num_rows").as<int32_t>() =
        static_cast<int32_t>(shape_.context);
    *program_->Input("position").as<int32_t>() =
        static_cast<int32_t>(shape_.context - 1);
    // Backwards, so that no two blocks follow each other in memory.
    int32_t* const table = program_->Input("table").as<int32_t>();
    for (int64_t i = 0; i < blocks_; ++i) {
      table[i] = static_cast<int32_t>(blocks_ - 1 - i);
    }
    int32_t* const row = program_->Input("row").as<int32_t>();
    for (int64_t i = 0; i < shape_.context; ++i) {
      row[i] = static_cast<int32_t>(table[i / kBlockSize] * kBlockSize +
                                    i % kBlockSize);
    }
  }

  const AttentionShape shape_;
  const int64_t blocks_;
  CpuBackend backend_;
  StateStore state_;
  std::unique_ptr<Program> program_;
};

}  // namespace

absl::StatusOr<std::vector<AttentionOutcome>> MeasureAttention(
    const AttentionShape& shape, int rounds) {
  std::vector<std::unique_ptr<OneLayer>> layers;
  std::vector<AttentionOutcome> outcomes;
  std::vector<float> exact;
  for (const CacheVariant& variant : CacheVariants()) {
    ASSIGN_OR_RETURN(layers.emplace_back(),
                     OneLayer::Create(shape, variant.cache));
    AttentionOutcome outcome;
    outcome.variant = variant.name;
    outcome.bytes_per_token = layers.back()->BytesPerToken();
    const std::vector<float> o = layers.back()->Result();
    if (exact.empty()) exact = o;
    double error = 0, energy = 0;
    for (size_t i = 0; i < o.size(); ++i) {
      error += std::pow(double{o[i]} - exact[i], 2);
      energy += std::pow(double{exact[i]}, 2);
    }
    outcome.error = std::sqrt(error / energy);
    outcomes.push_back(std::move(outcome));
  }
  for (int round = 0; round < rounds; ++round) {
    for (size_t i = 0; i < layers.size(); ++i) {
      const Clock::time_point start = Clock::now();
      RETURN_IF_ERROR(layers[i]->Run());
      outcomes[i].microseconds.push_back(
          std::chrono::duration<double, std::micro>(Clock::now() - start)
              .count());
    }
  }
  return outcomes;
}

}  // namespace strata
