#include "core/cpu/fused/fused_experts.h"

#include <algorithm>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/cpu/fused/expert_tiles.h"
#include "core/cpu/fused/fused_tiles.h"
#include "core/cpu/gate_rows.h"
#include "core/cpu/row_chunks.h"
#include "core/cpu/vector_math.h"
#include "core/ops/fused_experts.h"
#include "core/runtime/kernel.h"
#include "core/runtime/kernel_registry.h"
#include "core/tensor/tensor.h"

namespace strata {
namespace {

// --- NormMlp ---

template <typename T>
absl::Status RunNormMlp(const KernelContext& ctx) {
  const int64_t t = ctx.in(kMlpH).dim(0), d = ctx.in(kMlpH).dim(1);
  const T* const h = ctx.in(kMlpH).as<T>();        // [t, d]
  const T* const gain = ctx.in(kMlpGain).as<T>();  // [d]
  const auto bias = [&](int i) {
    return ctx.has(i) ? ctx.in(i).as<T>() : nullptr;
  };
  SwiGluWeights<T> w;
  w.gate_up = ctx.in(kMlpGateUp);
  w.down = ctx.in(kMlpDown);
  w.width = w.down.dim(1);
  T* const y = ctx.out(0).as<T>();       // [t, d]
  T* const normed = ctx.out(1).as<T>();  // [64, d]
  T* const hidden = ctx.out(2).as<T>();  // [64, width]
  const T eps = static_cast<T>(ctx.attrs().Float("eps"));
  const int64_t columns = HiddenColumns(w.width);
  const int64_t tile_size =
      std::min(t, kTileRows) * std::max(2 * columns, PieceColumns(d, w.width));
  T* const tiles = ctx.scratch.Take<T>(ctx.pool.num_threads() * tile_size);
  for (int64_t first = 0; first < t; first += kTileRows) {
    TileRowsOf<T> x;
    x.m = std::min(kTileRows, t - first);
    NormRows(ctx.pool, h + first * d, gain, eps, x.m, d, normed);
    x.a = normed;
    x.k = x.lda = d;
    const auto up = [&](int64_t piece, int worker) {
      const int64_t column = piece * columns;
      HiddenTile(x, w, 0, bias(kMlpUpBias), column,
                 std::min(columns, w.width - column), hidden,
                 tiles + worker * tile_size);
    };
    ForPieces(ctx.pool, CeilDiv(w.width, columns), x.m * 2 * w.width * d, up);
    x.a = hidden;
    x.k = x.lda = w.width;
    AddProduct(ctx.pool, x, w.down, bias(kMlpDownBias), h + first * d,
               y + first * d, tiles);
  }
  return absl::OkStatus();
}

// --- RoutedExperts ---

// Tokens of a piece of the gate, where there are enough of them to be shared
// out; below, threads share the experts' keys. A choice takes as long as the
// scores do, so pieces are small.
constexpr int64_t kFewTokens = 32;
int64_t GateRows(int64_t tokens) {
  return std::clamp<int64_t>(tokens / 16, 2, 4);
}

// Norm, scores, choice and weights: the gate of all tokens.
template <typename T>
struct Gate {
  const KernelContext& ctx;
  int64_t t, d, experts, k;
  const T* bias;
  const T* gain;
  T eps, scale;
  bool softmax;
  T* normed;        // [t, d]
  T* p;             // [t, experts]
  int32_t* expert;  // [t, k]
  T* weight;        // [t, k]

  explicit Gate(const KernelContext& context)
      : ctx(context),
        t(ctx.in(kRoutedH).dim(0)),
        d(ctx.in(kRoutedH).dim(1)),
        experts(ctx.in(kRoutedGate).dim(0)),
        k(ctx.attrs().Int("k")),
        bias(ctx.has(kRoutedBias) ? ctx.in(kRoutedBias).template as<T>()
                                  : nullptr),
        gain(ctx.in(kRoutedGain).template as<T>()),
        eps(static_cast<T>(ctx.attrs().Float("eps"))),
        scale(static_cast<T>(ctx.attrs().Float("scale"))),
        softmax(ctx.attrs().Int("softmax") != 0),
        normed(ctx.out(kRoutedX).template as<T>()),
        p(ctx.scratch.template Take<T>(t * experts)),
        expert(ctx.scratch.template Take<int32_t>(t * k)),
        weight(ctx.scratch.template Take<T>(t * k)) {}

  void Run() const {
    const TopKRow<T> top(ctx.attrs(), experts);
    const auto scratch = top.TakeScratch(ctx.pool.num_threads(), ctx.scratch);
    const Normalizer<T> normalizer(ctx.attrs());
    T* const sorted = ctx.scratch.template Take<T>(ctx.pool.num_threads() * k);
    const auto choose = [&](int64_t i, int worker) {
      T* const row = p + i * experts;
      const VectorMath<T>& vec = VectorMath<T>::Get();
      if (softmax) {
        vec.softmax(row, T{1}, experts, row);
      } else {
        vec.sigmoid(row, experts, row);
      }
      top.Select(row, bias, scratch, worker, expert + i * k);
      normalizer.Weigh(scale, row, expert + i * k, k, sorted + worker * k,
                       weight + i * k);
    };
    const T* const h = ctx.in(kRoutedH).template as<T>();
    if (t < kFewTokens) {
      NormRows(ctx.pool, h, gain, eps, t, d, normed);
      const int64_t columns = PieceColumns(experts, d);
      ctx.pool.ParallelFor(CeilDiv(experts, columns), [&](int64_t piece) {
        Score(0, t, piece * columns,
              std::min(columns, experts - piece * columns));
      });
      for (int64_t i = 0; i < t; ++i) choose(i, /*worker=*/0);
      return;
    }
    const int64_t rows = GateRows(t);
    ctx.pool.ParallelFor(CeilDiv(t, rows), [&](int64_t piece, int worker) {
      const int64_t begin = piece * rows;
      const int64_t end = std::min(t, begin + rows);
      for (int64_t i = begin; i < end; ++i) {
        NormRow(h + i * d, gain, eps, d, normed + i * d);
      }
      Score(begin, end, 0, experts);
      for (int64_t i = begin; i < end; ++i) choose(i, worker);
    });
  }

 private:
  // Logits of tokens [begin, end) for `count` experts from `first` on.
  void Score(int64_t begin, int64_t end, int64_t first, int64_t count) const {
    TileRowsOf<T> x;
    x.a = normed + begin * d;
    x.m = end - begin;
    x.k = x.lda = d;
    x.Times(ctx.in(kRoutedGate), first, count, p + begin * experts + first,
            experts);
  }
};

// DispatchPlan of few slots: rows by expert, then slot. `expert` has no -1.
void PlanRows(const int32_t* expert, int64_t slots, int64_t k, int64_t experts,
              int32_t* offset, int32_t* slot_row, int32_t* row_token) {
  std::fill_n(offset, experts + 1, 0);
  for (int64_t s = 0; s < slots; ++s) ++offset[expert[s] + 1];
  for (int64_t e = 0; e < experts; ++e) offset[e + 1] += offset[e];
  // Where an expert's next row is; then its end, which is the next one's
  // begin, so all move by one place.
  for (int64_t s = 0; s < slots; ++s) {
    slot_row[s] = offset[expert[s]]++;
    row_token[slot_row[s]] = static_cast<int32_t>(s / k);
  }
  std::copy_backward(offset, offset + experts, offset + experts + 1);
  offset[0] = 0;
}

template <typename T>
absl::Status RunRouted(const KernelContext& ctx) {
  const Gate<T> gate(ctx);
  gate.Run();
  const int64_t slots = gate.t * gate.k;
  int32_t* const offset = ctx.out(kRoutedOffset).as<int32_t>();
  auto* const slot_row = ctx.scratch.Take<int32_t>(slots);
  auto* const row_token = ctx.scratch.Take<int32_t>(slots);
  PlanRows(gate.expert, slots, gate.k, gate.experts, offset, slot_row,
           row_token);
  *ctx.out(kRoutedRows).as<int32_t>() = static_cast<int32_t>(slots);

  ExpertTiles<T> tiles(ctx);
  tiles.d = gate.d;
  tiles.tokens = gate.t;
  tiles.k = gate.k;
  tiles.experts = gate.experts;
  tiles.x = gate.normed;
  tiles.row_token = row_token;
  tiles.slot_row = slot_row;
  tiles.offset = offset;
  tiles.weight = gate.weight;
  tiles.routed = {ctx.in(kRoutedGateUp), ctx.in(kRoutedDown),
                  ctx.in(kRoutedDown).dim(2)};
  tiles.hidden = ctx.out(kRoutedHidden).as<T>();
  if (ctx.has(kRoutedSharedUp)) {
    tiles.shared = {ctx.in(kRoutedSharedUp), ctx.in(kRoutedSharedDown),
                    ctx.in(kRoutedSharedDown).dim(1)};
    tiles.shared_hidden = ctx.out(kRoutedShared).as<T>();
  }
  tiles.h = ctx.in(kRoutedH).as<T>();
  tiles.y = ctx.out(kRoutedY).as<T>();
  tiles.Run();
  return absl::OkStatus();
}

// --- ExpertsResidual ---

template <typename T>
absl::Status RunExperts(const KernelContext& ctx) {
  ExpertTiles<T> tiles(ctx);
  tiles.tokens = ctx.in(kExpertsX).dim(0);
  tiles.d = ctx.in(kExpertsX).dim(1);
  tiles.k = ctx.in(kExpertsSlotRow).dim(1);
  tiles.experts = ctx.in(kExpertsOffset).dim(0) - 1;
  tiles.x = ctx.in(kExpertsX).as<T>();
  tiles.slot_row = ctx.in(kExpertsSlotRow).as<int32_t>();
  tiles.offset = ctx.in(kExpertsOffset).as<int32_t>();
  const int64_t rows = ctx.in(kExpertsRowSlot).dim(0);
  if (tiles.offset[tiles.experts] != rows) {
    return absl::InvalidArgumentError(absl::StrCat(
        "experts own ", tiles.offset[tiles.experts], " rows of ", rows));
  }
  const int32_t* const row_slot = ctx.in(kExpertsRowSlot).as<int32_t>();
  auto* const row_token = ctx.scratch.Take<int32_t>(rows);
  for (int64_t r = 0; r < rows; ++r) {
    row_token[r] = static_cast<int32_t>(row_slot[r] / tiles.k);
  }
  tiles.row_token = row_token;
  tiles.weight =
      ctx.has(kExpertsWeight) ? ctx.in(kExpertsWeight).as<T>() : nullptr;
  tiles.routed = {ctx.in(kExpertsGateUp), ctx.in(kExpertsDown),
                  ctx.in(kExpertsDown).dim(2)};
  tiles.hidden = ctx.out(1).as<T>();
  tiles.h = ctx.in(kExpertsH).as<T>();
  tiles.y = ctx.out(0).as<T>();
  if (ctx.has(kExpertsIndex)) {
    const int64_t t = ctx.in(kExpertsH).dim(0), d = tiles.d;
    tiles.index = ctx.in(kExpertsIndex).as<int32_t>();
    for (int64_t i = 0; i < tiles.tokens; ++i) {
      if (tiles.index[i] >= 0 && tiles.index[i] < t) continue;
      return absl::InvalidArgumentError(absl::StrCat(
          "index ", i, " is row ", tiles.index[i], "; want 0 to ", t - 1));
    }
    if (tiles.h != tiles.y) {
      ForRowChunks(ctx.pool, t, d, [&](int64_t begin, int64_t end) {
        std::copy(tiles.h + begin * d, tiles.h + end * d, tiles.y + begin * d);
      });
    }
  }
  tiles.Run();
  return absl::OkStatus();
}

template <typename T>
void RegisterFor(KernelRegistry& kernels) {
  const DType dtype = DTypeOf<T>();
  kernels.Register(kNormMlp, dtype, RunNormMlp<T>);
  kernels.Register(kRoutedExperts, dtype, RunRouted<T>);
  kernels.Register(kExpertsResidual, dtype, RunExperts<T>);
}

}  // namespace

void RegisterFusedExpertsKernels(KernelRegistry& kernels) {
  RegisterFor<float>(kernels);
  RegisterFor<double>(kernels);
}

}  // namespace strata
