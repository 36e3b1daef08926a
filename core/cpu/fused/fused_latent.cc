// A tile of 64 tokens at a time: norm, down to the latents of queries and keys;
// then a head at a time, from the latent to the query that meets the cache.

#include "core/cpu/fused/fused_latent.h"

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/cpu/fused/fused_tiles.h"
#include "core/cpu/row_products.h"
#include "core/cpu/vector_math.h"
#include "core/ops/fused_latent.h"
#include "core/ops/packed_cache.h"
#include "core/quant/cache_format.h"
#include "core/runtime/kernel.h"
#include "core/runtime/kernel_registry.h"
#include "core/tensor/dtype.h"
#include "core/tensor/tensor.h"

namespace strata {
namespace {

template <typename T>
class LatentQkvKernel {
 public:
  explicit LatentQkvKernel(const KernelContext& ctx)
      : ctx_(ctx),
        t_(ctx.in(kLatentX).dim(0)),
        d_(ctx.in(kLatentX).dim(1)),
        heads_(ctx.attrs().Int("num_heads")),
        nope_(ctx.attrs().Int("nope")),
        rope_(ctx.attrs().Int("rope")),
        value_(ctx.attrs().Int("value")),
        rank_(ctx.in(kLatentKvB).dim(1)),
        width_(rank_ + rope_),
        has_down_(ctx.has(kLatentWqDown)),
        q_columns_(ctx.in(kLatentWq).dim(1)),
        interleaved_(ctx.attrs().Int("interleaved") != 0),
        stored_(CacheOptionsOf(ctx.attrs())),
        row_(ctx.in(kLatentRow).as<int32_t>()),
        out_(ctx.out(0).template as<T>()),
        normed_(ctx.out(1).template as<T>()),
        latent_(ctx.out(2).template as<T>()),
        q_latent_(has_down_ ? ctx.out(3).template as<T>() : normed_) {}

  absl::Status Run() {
    const int64_t slots = ctx_.in(kLatentCache).dim(0);
    for (int64_t i = 0; i < t_; ++i) {
      if (row_[i] >= 0 && row_[i] < slots) continue;
      return absl::InvalidArgumentError(
          absl::StrCat("token ", i, " goes to cache row ", row_[i],
                       "; want 0 to ", slots - 1));
    }
    const int64_t tile_size = std::min(t_, kTileRows) * (nope_ + rope_);
    T* const tiles =
        ctx_.scratch.template Take<T>(ctx_.pool.num_threads() * tile_size);
    for (int64_t first = 0; first < t_; first += kTileRows) {
      const int64_t rows = std::min(kTileRows, t_ - first);
      NormRows(ctx_.pool, ctx_.in(kLatentX).template as<T>() + first * d_,
               Floats(kLatentGain), Eps("eps"), rows, d_, normed_);
      Down(rows);
      for (int64_t i = 0; i < rows; ++i) Store(i, first + i);
      ForPieces(ctx_.pool, heads_,
                rows * heads_ * (q_columns_ * (nope_ + rope_) + nope_ * rank_),
                [&](int64_t head, int worker) {
                  Head(head, first, rows, tiles + worker * tile_size);
                });
    }
    return absl::OkStatus();
  }

 private:
  const T* Floats(int input) const {
    return ctx_.has(input) ? ctx_.in(input).template as<T>() : nullptr;
  }
  T Eps(const char* name) const {
    return static_cast<T>(ctx_.attrs().Float(name));
  }
  TileRowsOf<T> Tile(const T* a, int64_t rows, int64_t columns) const {
    TileRowsOf<T> tile;
    tile.a = a;
    tile.m = rows;
    tile.k = tile.lda = columns;
    return tile;
  }

  // The tile's latents of queries and of keys, side by side.
  void Down(int64_t rows) const {
    const int64_t columns = PieceColumns(q_columns_ + width_, d_);
    const int64_t of_q = has_down_ ? CeilDiv(q_columns_, columns) : 0;
    const int64_t of_kv = CeilDiv(width_, columns);
    const TileRowsOf<T> x = Tile(normed_, rows, d_);
    ForPieces(ctx_.pool, of_q + of_kv,
              rows * d_ * (width_ + (has_down_ ? q_columns_ : 0)),
              [&](int64_t piece, int) {
                const bool is_q = piece < of_q;
                const int64_t first = (is_q ? piece : piece - of_q) * columns;
                const int64_t n = is_q ? q_columns_ : width_;
                x.Times(ctx_.in(is_q ? kLatentWqDown : kLatentWkv), first,
                        std::min(columns, n - first),
                        (is_q ? q_latent_ : latent_) + first, n);
              });
  }

  // Norms of row `i` of the tile; latent and rotary key of `token` to the
  // cache.
  void Store(int64_t i, int64_t token) const {
    const VectorMath<T>& vec = VectorMath<T>::Get();
    if (has_down_) {
      T* const q = q_latent_ + i * q_columns_;
      if (const T* const bias = Floats(kLatentBqDown)) {
        vec.add(q, bias, q_columns_, q);
      }
      NormRow(q, Floats(kLatentQGain), Eps("q_eps"), q_columns_, q);
    }
    T* const latent = latent_ + i * width_;
    if (const T* const bias = Floats(kLatentBkv)) {
      vec.add(latent, bias, width_, latent);
    }
    // A key that is to be rounded is made where its latent lies.
    const TensorView& cache = ctx_.in(kLatentCache);
    T* const key = stored_.packed()
                       ? latent
                       : cache.template as<T>() + row_[token] * width_;
    NormRow(latent, Floats(kLatentKvGain), Eps("kv_eps"), rank_, key);
    Turn(latent + rank_, token, key + rank_);
    if constexpr (std::is_same_v<T, float>) {
      if (!stored_.packed()) return;
      // As the sum with the zeros beside each part has it: -0 is 0.
      for (int64_t c = 0; c < width_; ++c) key[c] += 0;
      PackCacheHead(stored_.format, stored_.attention_bits > 0, key, width_,
                    cache.as<uint8_t>() + row_[token] * cache.dim(1));
    }
  }

  void Head(int64_t head, int64_t first, int64_t rows, T* tile) const {
    const int64_t qk = nope_ + rope_;
    Tile(q_latent_, rows, q_columns_)
        .Times(ctx_.in(kLatentWq), head * qk, qk, tile, qk);
    T* const out = out_ + first * heads_ * width_ + head * width_;
    RowProductArgs<T> g;
    g.m = rows;
    g.n = rank_;
    g.k = nope_;
    g.a = tile;
    g.lda = qk;
    g.b =
        ctx_.in(kLatentKvB).template as<T>() + head * (nope_ + value_) * rank_;
    g.ldb = rank_;
    g.c = out;
    g.ldc = heads_ * width_;
    RowProducts<T>::Get().by_sums(g);
    for (int64_t i = 0; i < rows; ++i) {
      Turn(tile + i * qk + nope_, first + i, out + i * heads_ * width_ + rank_);
    }
  }

  // y = x [rope] turned as `token`'s are.
  void Turn(const T* x, int64_t token, T* y) const {
    const int64_t half = rope_ / 2;
    const T* const cos = Floats(kLatentCos) + token * half;
    const T* const sin = Floats(kLatentSin) + token * half;
    if (!interleaved_) {
      VectorMath<T>::Get().rotate(x, x + half, cos, sin, half, y, y + half);
      return;
    }
    for (int64_t j = 0; j < half; ++j) {
      const T a = x[2 * j], b = x[2 * j + 1];
      y[2 * j] = a * cos[j] - b * sin[j];
      y[2 * j + 1] = a * sin[j] + b * cos[j];
    }
  }

  const KernelContext& ctx_;
  const int64_t t_, d_, heads_, nope_, rope_, value_, rank_, width_;
  const bool has_down_;
  const int64_t q_columns_;
  const bool interleaved_;
  const CacheOptions stored_;
  const int32_t* const row_;
  T* const out_;       // [t, heads * width]
  T* const normed_;    // [64, d]
  T* const latent_;    // [64, width]
  T* const q_latent_;  // [64, q_columns]
};

template <typename T>
absl::Status RunLatentQkv(const KernelContext& ctx) {
  return LatentQkvKernel<T>(ctx).Run();
}

}  // namespace

void RegisterFusedLatentKernels(KernelRegistry& kernels) {
  kernels.Register(kLatentQkv, DType::kF32, RunLatentQkv<float>);
  kernels.Register(kLatentQkv, DType::kF64, RunLatentQkv<double>);
}

}  // namespace strata
