// A tile of tokens goes through a whole operator before the next one does:
//
//   NormQkv         x [64, d] --norm--> tile --head by head--> product, bias,
//                   norm, turn --> q, or the tokens' rows of the caches
//   AttendProject   q [64, ..] --attention--> tile --columns--> product, bias,
//                   + h --> y
//
// so what lies between is a tile, and the last steps are done on what the
// processor has just made.

#include "core/cpu/fused/fused_attention.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "core/base/status_macros.h"
#include "core/cpu/attend/packed_attention.h"
#include "core/cpu/cached_attention.h"
#include "core/cpu/fused/fused_tiles.h"
#include "core/cpu/paged_attention.h"
#include "core/cpu/row_chunks.h"
#include "core/cpu/vector_math.h"
#include "core/ops/fused_attention.h"
#include "core/ops/packed_cache.h"
#include "core/ops/rope.h"
#include "core/quant/cache_format.h"
#include "core/runtime/kernel.h"
#include "core/runtime/kernel_registry.h"
#include "core/runtime/scratch.h"
#include "core/tensor/tensor.h"

namespace strata {
namespace {

static_assert(kTileRows == kFusedTileRows, "the tiles are outputs");

// --- RopeTable ---

template <typename T>
absl::Status RunRopeTable(const KernelContext& ctx) {
  const int64_t t = ctx.in(0).dim(0), half = ctx.out(0).dim(1);
  const int32_t* const position = ctx.in(0).as<int32_t>();  // [t]
  T* const cos = ctx.out(0).as<T>();                        // [t, half]
  T* const sin = ctx.out(1).as<T>();                        // [t, half]
  const RopeOptions options = RopeOptionsOf(ctx.attrs());
  int32_t max_position = 0;
  for (int64_t i = 0; i < t; ++i) {
    if (position[i] < 0) {
      return absl::InvalidArgumentError(absl::StrCat(
          "token ", i, " has position ", position[i], "; want 0 or more"));
    }
    max_position = std::max(max_position, position[i]);
  }
  // Of each token's own length, where frequencies depend on it.
  const bool by_length = ctx.has(1) && options.stretch == RopeStretch::kDynamic;
  double* const frequencies =
      ctx.scratch.Take<double>((by_length ? t : 1) * half);
  for (int64_t i = 0; i < (by_length ? t : 1); ++i) {
    const int64_t length =
        by_length ? ctx.in(1).as<int32_t>()[i] : int64_t{max_position} + 1;
    RopeFrequencies(options, length, frequencies + i * half);
  }
  const double size = options.magnitude;
  // A sine costs about 32 times as much as what an element usually does.
  ForRowChunks(ctx.pool, t, 32 * half, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const double* const frequency = frequencies + (by_length ? i * half : 0);
      for (int64_t j = 0; j < half; ++j) {
        const double angle = position[i] * frequency[j];
        cos[i * half + j] = static_cast<T>(size * std::cos(angle));
        sin[i * half + j] = static_cast<T>(size * std::sin(angle));
      }
    }
  });
  return absl::OkStatus();
}

// --- NormQkv ---

// One of the three projections.
template <typename T>
struct Projection {
  TensorView weight;   // [heads * dim, d]
  const T* bias;       // [heads * dim] or null
  const T* head_gain;  // [dim] or null
  bool turns;
  int64_t heads, dim;
  TensorView cache;  // Where rows go; of no data: to `out`.
  int64_t heads_of_piece;

  int64_t columns() const { return heads * dim; }
  int64_t pieces() const { return CeilDiv(heads, heads_of_piece); }
};

template <typename T>
class NormQkvKernel {
 public:
  explicit NormQkvKernel(const KernelContext& ctx)
      : ctx_(ctx),
        t_(ctx.in(kQkvX).dim(0)),
        d_(ctx.in(kQkvX).dim(1)),
        half_(ctx.in(kQkvCos).dim(1)),
        interleaved_(ctx.attrs().Int("interleaved") != 0),
        qk_eps_(static_cast<T>(ctx.attrs().Float("qk_eps"))),
        cos_(ctx.in(kQkvCos).as<T>()),
        sin_(ctx.in(kQkvSin).as<T>()),
        row_(ctx.in(kQkvRow).as<int32_t>()),
        stored_(CacheOptionsOf(ctx.attrs())),
        q_(ctx.out(0).as<T>()) {
    const int64_t kv_heads = ctx.attrs().Int("num_kv_heads");
    parts_[0] = Part(kQkvWq, ctx.attrs().Int("num_heads"), kQkvQGain, true);
    parts_[1] = Part(kQkvWk, kv_heads, kQkvKGain, true);
    parts_[1].cache = ctx.in(kQkvKCache);
    parts_[2] = Part(kQkvWv, kv_heads, -1, false);
    parts_[2].cache = ctx.in(kQkvVCache);
  }

  absl::Status Run() {
    const int64_t slots = ctx_.in(kQkvKCache).dim(0);
    for (int64_t i = 0; i < t_; ++i) {
      if (row_[i] >= 0 && row_[i] < slots) continue;
      return absl::InvalidArgumentError(
          absl::StrCat("token ", i, " goes to cache row ", row_[i],
                       "; want 0 to ", slots - 1));
    }
    int64_t widest = 0;
    for (const Projection<T>& p : parts_) {
      widest = std::max(widest, p.heads_of_piece * p.dim);
    }
    const int64_t tile_size = std::min(t_, kHeadRows) * widest;
    T* const tiles =
        ctx_.scratch.template Take<T>(ctx_.pool.num_threads() * tile_size);
    T* const normed = ctx_.out(1).as<T>();  // [64, d]
    const T* const x = ctx_.in(kQkvX).as<T>();
    const T* const gain = ctx_.in(kQkvGain).as<T>();
    const T eps = static_cast<T>(ctx_.attrs().Float("eps"));
    const int64_t pieces =
        parts_[0].pieces() + parts_[1].pieces() + parts_[2].pieces();
    const int64_t columns =
        parts_[0].columns() + parts_[1].columns() + parts_[2].columns();
    for (int64_t first = 0; first < t_; first += kTileRows) {
      const int64_t rows = std::min(kTileRows, t_ - first);
      NormRows(ctx_.pool, x + first * d_, gain, eps, rows, d_, normed);
      const int64_t row_pieces = CeilDiv(rows, kHeadRows);
      const auto run = [&](int64_t piece, int worker) {
        // Neighbours share their part of the weights.
        const int64_t row = piece % row_pieces * kHeadRows;
        piece /= row_pieces;
        const Projection<T>* p = parts_;
        for (; piece >= p->pieces(); ++p) piece -= p->pieces();
        RunPiece(*p, piece * p->heads_of_piece, first + row,
                 std::min(kHeadRows, rows - row), normed + row * d_,
                 tiles + worker * tile_size);
      };
      ForPieces(ctx_.pool, pieces * row_pieces, rows * d_ * columns, run);
    }
    return absl::OkStatus();
  }

 private:
  Projection<T> Part(int weight, int64_t heads, int gain, bool turns) const {
    Projection<T> p = {};
    p.weight = ctx_.in(weight);
    const int bias = kQkvBq + (weight - kQkvWq);
    p.bias = ctx_.has(bias) ? ctx_.in(bias).template as<T>() : nullptr;
    p.head_gain =
        gain >= 0 && ctx_.has(gain) ? ctx_.in(gain).template as<T>() : nullptr;
    p.turns = turns;
    p.heads = heads;
    p.dim = p.weight.dim(0) / heads;
    p.heads_of_piece =
        std::clamp<int64_t>(PieceColumns(p.columns(), d_) / p.dim, 1, p.heads);
    return p;
  }

  // Some heads of a tile's tokens from `first` on.
  void RunPiece(const Projection<T>& p, int64_t head, int64_t first,
                int64_t rows, const T* normed, T* tile) const {
    const int64_t heads = std::min(p.heads_of_piece, p.heads - head);
    const int64_t n = heads * p.dim;
    const bool to_cache = p.cache.data != nullptr;
    // Queries are made where they stay.
    T* const made = to_cache ? tile : q_ + first * p.columns() + head * p.dim;
    const int64_t ld = to_cache ? n : p.columns();
    TileRowsOf<T> x;
    x.a = normed;
    x.m = rows;
    x.k = x.lda = d_;
    x.Times(p.weight, head * p.dim, n, made, ld);
    const VectorMath<T>& vec = VectorMath<T>::Get();
    for (int64_t i = 0; i < rows; ++i) {
      T* const row = made + i * ld;
      if (p.bias != nullptr) vec.add(row, p.bias + head * p.dim, n, row);
      for (int64_t h = 0; h < heads; ++h) {
        T* const of_head = row + h * p.dim;
        if (p.head_gain != nullptr) {
          NormRow(of_head, p.head_gain, qk_eps_, p.dim, of_head);
        }
        if (p.turns) Turn(of_head + p.dim - 2 * half_, first + i);
      }
      if (to_cache) Store(p, row, head, heads, row_[first + i]);
    }
  }

  // Heads from `head` on to a row of the cache.
  void Store(const Projection<T>& p, const T* x, int64_t head, int64_t heads,
             int64_t slot) const {
    if (!stored_.packed()) {
      std::copy_n(x, heads * p.dim,
                  p.cache.template as<T>() + slot * p.columns() + head * p.dim);
      return;
    }
    if constexpr (std::is_same_v<T, float>) {
      const int64_t bytes = p.cache.dim(1) / p.heads;
      uint8_t* const to =
          p.cache.template as<uint8_t>() + slot * p.cache.dim(1) + head * bytes;
      for (int64_t h = 0; h < heads; ++h) {
        PackCacheHead(stored_.format, stored_.attention_bits > 0, x + h * p.dim,
                      p.dim, to + h * bytes);
      }
    }
  }

  // The columns of a head that turn, as token `i`'s do.
  void Turn(T* x, int64_t i) const {
    const T* const cos = cos_ + i * half_;
    const T* const sin = sin_ + i * half_;
    if (!interleaved_) {
      VectorMath<T>::Get().rotate(x, x + half_, cos, sin, half_, x, x + half_);
      return;
    }
    for (int64_t j = 0; j < half_; ++j) {
      const T a = x[2 * j], b = x[2 * j + 1];
      x[2 * j] = a * cos[j] - b * sin[j];
      x[2 * j + 1] = a * sin[j] + b * cos[j];
    }
  }

  const KernelContext& ctx_;
  const int64_t t_, d_, half_;
  const bool interleaved_;
  const T qk_eps_;
  const T* const cos_;
  const T* const sin_;
  const int32_t* const row_;
  const CacheOptions stored_;
  T* const q_;
  Projection<T> parts_[3];
};

template <typename T>
absl::Status RunNormQkv(const KernelContext& ctx) {
  return NormQkvKernel<T>(ctx).Run();
}

// --- AttendProject ---

// Rows [first, first + rows) of `all`.
TensorView Rows(const TensorView& all, int64_t first, int64_t rows) {
  TensorView view = all;
  view.shape[0] = 1;
  view.data = static_cast<char*>(all.data) + first * view.num_bytes();
  view.shape[0] = rows;
  return view;
}

// o' W_V^T of a tile, head by head (LatentOutput).
template <typename T>
void ValuesOfLatents(const KernelContext& ctx, const TensorView& kv_b,
                     const T* o, int64_t rows, T* values) {
  const int64_t heads = ctx.attrs().Int("num_heads");
  const int64_t nope = ctx.attrs().Int("nope");
  const int64_t value = ctx.attrs().Int("value");
  const int64_t rank = kv_b.dim(1);
  ctx.pool.ParallelFor(heads, [&](int64_t head) {
    TileRowsOf<T> x;
    x.a = o + head * rank;
    x.m = rows;
    x.k = rank;
    x.lda = heads * rank;
    x.Times(kv_b, head * (nope + value) + nope, value, values + head * value,
            heads * value);
  });
}

template <typename T, Kernel attend, int kInputs, bool kLatent>
absl::Status RunAttendProject(const KernelContext& ctx) {
  const TensorView& h = ctx.in(kInputs);      // [t, d]
  const TensorView& w = ctx.in(kInputs + 1);  // [d, columns]
  const T* const bias =
      ctx.has(kInputs + 2) ? ctx.in(kInputs + 2).as<T>() : nullptr;
  const int64_t t = h.dim(0), d = h.dim(1), k = w.dim(1);
  TensorView attended = ctx.out(1);  // [64, columns that are attended]
  T* const values = ctx.out(kLatent ? 2 : 1).template as<T>();
  T* const tiles = ctx.scratch.Take<T>(
      ctx.pool.num_threads() * std::min(t, kTileRows) * PieceColumns(d, k));
  // Attention takes anew for each tile what it needs.
  static thread_local Scratch scratch;
  std::array<TensorView, kInputs> inputs;
  std::copy_n(ctx.inputs.begin(), kInputs, inputs.begin());
  for (int64_t first = 0; first < t; first += kTileRows) {
    const int64_t rows = std::min(kTileRows, t - first);
    // Queries come first, what says where their keys are comes last.
    for (const int i : {0, kInputs - 2, kInputs - 1}) {
      inputs[i] = Rows(ctx.in(i), first, rows);
    }
    attended.shape[0] = rows;
    scratch.Reset();
    RETURN_IF_ERROR(attend({ctx.node, inputs, absl::MakeConstSpan(&attended, 1),
                            ctx.pool, scratch}));
    if constexpr (kLatent) {
      ValuesOfLatents(ctx, ctx.in(kInputs + 3), attended.as<T>(), rows, values);
    }
    TileRowsOf<T> x;
    x.a = values;
    x.m = rows;
    x.k = x.lda = k;
    AddProduct(ctx.pool, x, w, bias, h.as<T>() + first * d,
               ctx.out(0).template as<T>() + first * d, tiles);
  }
  return absl::OkStatus();
}

template <typename T>
void RegisterFor(KernelRegistry& kernels) {
  const DType dtype = DTypeOf<T>();
  kernels.Register(kRopeTable, dtype, RunRopeTable<T>);
  kernels.Register(kNormQkv, dtype, RunNormQkv<T>);
  kernels.Register(kPagedAttendProject, dtype,
                   RunAttendProject<T, AttendToPages, 6, false>);
  kernels.Register(kCachedAttendProject, dtype,
                   RunAttendProject<T, AttendToCache, 5, false>);
  kernels.Register(kPagedLatentAttendProject, dtype,
                   RunAttendProject<T, AttendToLatentPages, 5, true>);
  kernels.Register(kCachedLatentAttendProject, dtype,
                   RunAttendProject<T, AttendToLatentCache, 4, true>);
}

}  // namespace

void RegisterFusedAttentionKernels(KernelRegistry& kernels) {
  RegisterFor<float>(kernels);
  kernels.Register(
      kPackedAttendProject, DType::kF32,
      RunAttendProject<float, AttendToPackedCache, kNumPackedInputs, false>);
  kernels.Register(
      kPackedLatentAttendProject, DType::kF32,
      RunAttendProject<float, AttendToPackedCache, kNumPackedInputs, true>);
  RegisterFor<double>(kernels);
}

}  // namespace strata
