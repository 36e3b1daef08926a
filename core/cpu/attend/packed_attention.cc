// A piece of work is a run of tokens of one sequence and some heads that share
// a KV head:
//
//   keys     a chunk of 32 widened, which stays in the first cache --> scores
//   scores   --> probabilities, a row at a time
//   values   a chunk widened --> sums of products with floats, or
//            integers added up by the level of their token's probability
//
// so each byte of the cache is read once for all rows of the piece.

#include "core/cpu/attend/packed_attention.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/cpu/attend/cache_rows.h"
#include "core/cpu/attend/cache_view.h"
#include "core/cpu/attention_block.h"
#include "core/cpu/fused/fused_tiles.h"
#include "core/cpu/row_chunks.h"
#include "core/cpu/row_products.h"
#include "core/cpu/vector_math.h"
#include "core/ops/packed_cache.h"
#include "core/quant/cache_format.h"
#include "core/quant/log_levels.h"
#include "core/runtime/kernel.h"
#include "core/runtime/kernel_registry.h"
#include "core/tensor/bfloat16.h"
#include "core/tensor/tensor.h"

namespace strata {
namespace {

// Query heads of a piece, as in core/cpu/paged_attention.cc.
constexpr int64_t kPieceHeads = 8;
// Keys that are widened at a time: 32 heads of 128 floats are 16 KB.
constexpr int64_t kChunkKeys = 32;
// Sums by level, and one for what is dropped.
constexpr int64_t kSums = (LogLevels::kMaxLevels + 1) * kCacheGroup;
static_assert(kMaxShortSums % kChunkKeys == 0, "chunks fill up short sums");

absl::Status RunPackedCacheWrite(const KernelContext& ctx) {
  uint8_t* const cache = ctx.in(0).as<uint8_t>();      // [slots, bytes]
  const float* const rows = ctx.in(1).as<float>();     // [t, n]
  const int32_t* const row = ctx.in(2).as<int32_t>();  // [t]
  const int64_t slots = ctx.in(0).dim(0), bytes = ctx.in(0).dim(1);
  const int64_t t = ctx.in(1).dim(0), n = ctx.in(1).dim(1);
  const int64_t heads = ctx.attrs().Int("num_heads"), columns = n / heads;
  const CacheOptions options = CacheOptionsOf(ctx.attrs());
  for (int64_t i = 0; i < t; ++i) {
    if (row[i] >= 0 && row[i] < slots) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        "token ", i, " goes to cache row ", row[i], "; want 0 to ", slots - 1));
  }
  // Rounding takes some eight times as long as a copy.
  ForRowChunks(ctx.pool, t, 8 * n, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      for (int64_t h = 0; h < heads; ++h) {
        PackCacheHead(options.format, options.attention_bits > 0,
                      rows + i * n + h * columns, columns,
                      cache + row[i] * bytes + h * (bytes / heads));
      }
    }
  });
  return absl::OkStatus();
}

// Heads of one kind, keys or values, in a cache.
struct PackedHeads {
  const uint8_t* data;  // Of the first token.
  int64_t row_bytes;    // From token to token.
  int64_t head_bytes;   // From head to head.
  int64_t groups;       // That are read of a head.
};

class PackedAttentionKernel {
 public:
  explicit PackedAttentionKernel(const KernelContext& ctx)
      : ctx_(ctx),
        options_(CacheOptionsOf(ctx.attrs())),
        heads_(ctx.attrs().Int("num_heads")),
        kv_heads_(ctx.attrs().Int("num_kv_heads")),
        group_(heads_ / kv_heads_),
        key_dim_(ctx.in(kPackedQ).dim(1) / heads_),
        value_dim_(ctx.attrs().Int("value_dim")),
        scale_(static_cast<float>(ctx.attrs().Float("scale"))),
        window_(ctx.attrs().Int("window")),
        slots_(ctx.in(kPackedK).dim(0)),
        view_(
            ctx.has(kPackedTable) ? ctx.in(kPackedTable) : TensorView(),
            ctx.in(kPackedWhere), ctx.in(kPackedPosition),
            ctx.has(kPackedTable) ? ctx.attrs().Int("block_size") : kChunkKeys),
        k_(HeadsOf(kPackedK, key_dim_)),
        v_(HeadsOf(ctx.has(kPackedV) ? kPackedV : kPackedK, value_dim_)) {
    if (options_.attention_bits > 0) levels_.emplace(options_.attention_bits);
  }

  absl::Status Run() {
    const int64_t t = ctx_.in(kPackedQ).dim(0);
    runs_ = ctx_.scratch.Take<TokenRun>(t);
    const int64_t num_runs = view_.FindRuns(t, runs_);
    int64_t longest = 0, products = 0;
    for (int64_t i = 0; i < num_runs; ++i) {
      const int64_t last = runs_[i].token + runs_[i].rows - 1;
      RETURN_IF_ERROR(view_.Check(runs_[i].token, slots_));
      RETURN_IF_ERROR(view_.Check(last, slots_));
      const int64_t keys = view_.position[last] + 1;
      longest = std::max(longest, keys);
      products += runs_[i].rows * keys * heads_ * (key_dim_ + value_dim_);
    }
    TakeScratch(longest);
    piece_heads_ = std::min(group_, kPieceHeads);
    const int64_t pieces = CeilDiv(group_, piece_heads_);
    const auto attend = [&](int64_t index, int worker) {
      const int64_t kv_head = index / pieces % kv_heads_;
      Attend(runs_[index / pieces / kv_heads_], kv_head,
             index % pieces * piece_heads_, worker);
    };
    ForPieces(ctx_.pool, num_runs * kv_heads_ * pieces, products, attend);
    return absl::OkStatus();
  }

 private:
  // What a thread works with.
  struct Worker {
    float* score;       // [rows or heads, PaddedKeys(longest)]
    float* wide;        // [kChunkKeys, columns of a head]
    uint8_t* level;     // [longest], of one row
    uint8_t* exponent;  // [groups, longest], of scales of values
    int16_t* sum;       // [levels + 1, 32]
    int32_t* total;     // [levels + 1, 32]
  };

  // `rows` rows of queries that see the first keys - rows + 1 to `keys` keys
  // (`step` 1), or all of them (`step` 0: heads of one token).
  struct Rows {
    int64_t where, rows, keys, step, kv_head;
    const float* q;
    int64_t ld_q;
    float* o;
    int64_t ld_o;

    int64_t seen(int64_t row) const { return keys - step * (rows - 1 - row); }
  };

  PackedHeads HeadsOf(int input, int64_t columns) const {
    const int64_t bytes = ctx_.in(input).dim(1);
    return {ctx_.in(input).as<uint8_t>(), bytes, bytes / kv_heads_,
            CacheGroups(columns)};
  }

  int64_t FirstSeen(int64_t keys) const {
    return window_ > 0 ? std::max<int64_t>(0, keys - window_) : 0;
  }

  void TakeScratch(int64_t longest) {
    const int64_t workers = ctx_.pool.num_threads();
    ld_score_ = PaddedKeys(longest);
    score_size_ = std::max(kRunTokens, kPieceHeads) * ld_score_;
    wide_size_ = kChunkKeys * kCacheGroup * std::max(k_.groups, v_.groups);
    score_ = ctx_.scratch.Take<float>(workers * score_size_);
    wide_ = ctx_.scratch.Take<float>(workers * wide_size_);
    if (!levels_) return;
    const int64_t sums = kSums;
    level_ = ctx_.scratch.Take<uint8_t>(workers * ld_score_);
    exponent_ = ctx_.scratch.Take<uint8_t>(workers * v_.groups * ld_score_);
    sum_ = ctx_.scratch.Take<int16_t>(workers * sums);
    total_ = ctx_.scratch.Take<int32_t>(workers * sums);
  }

  Worker WorkerAt(int index) const {
    const int64_t sums = kSums;
    Worker w = {score_ + index * score_size_,
                wide_ + index * wide_size_,
                nullptr,
                nullptr,
                nullptr,
                nullptr};
    if (levels_) {
      w.level = level_ + index * ld_score_;
      w.exponent = exponent_ + index * v_.groups * ld_score_;
      w.sum = sum_ + index * sums;
      w.total = total_ + index * sums;
    }
    return w;
  }

  void Attend(const TokenRun& run, int64_t kv_head, int64_t first_of_group,
              int worker) const {
    const int64_t group = std::min(piece_heads_, group_ - first_of_group);
    const int64_t head = kv_head * group_ + first_of_group;
    const int64_t ld_q = heads_ * key_dim_, ld_o = heads_ * value_dim_;
    Rows rows = {};
    rows.where = view_.where[run.token];
    rows.keys = view_.position[run.token] + run.rows;
    rows.kv_head = kv_head;
    rows.q = ctx_.in(kPackedQ).as<float>() + run.token * ld_q + head * key_dim_;
    rows.o = ctx_.out(0).as<float>() + run.token * ld_o + head * value_dim_;
    const Worker w = WorkerAt(worker);
    if (run.rows == 1) {  // Heads are rows: keys are read once for all.
      rows.rows = group;
      rows.ld_q = key_dim_;
      rows.ld_o = value_dim_;
      AttendRows(rows, w);
      return;
    }
    rows.rows = run.rows;
    rows.step = 1;
    rows.ld_q = ld_q;
    rows.ld_o = ld_o;
    for (int64_t h = 0; h < group; ++h) {
      AttendRows(rows, w);
      rows.q += key_dim_;
      rows.o += value_dim_;
    }
  }

  void AttendRows(const Rows& r, const Worker& w) const {
    // What no row sees is left out.
    const int64_t begin = FirstSeen(r.seen(0));
    RowProductArgs<float> g;
    g.m = r.rows;
    g.k = key_dim_;
    g.a = r.q;
    g.lda = r.ld_q;
    g.b = w.wide;
    g.ldb = kCacheGroup * k_.groups;
    g.ldc = ld_score_;
    ForChunks(r, k_, begin, [&](int64_t first, int64_t n, const uint8_t* row) {
      CacheRows::Get().widen(options_.format, row, k_.row_bytes, n, k_.groups,
                             w.wide);
      g.n = n;
      g.c = w.score + first;
      RowProducts<float>::Get().by_dots(g);
    });
    if (levels_) ReadExponents(r, w, begin);
    for (int64_t i = 0; i < r.rows; ++i) {
      float* const row = w.score + i * ld_score_;
      const int64_t seen = r.seen(i), first = FirstSeen(seen);
      VectorMath<float>::Get().softmax(row + first, scale_, seen - first,
                                       row + first);
      std::fill(row + begin, row + first, 0.0f);
      std::fill(row + seen, row + r.keys, 0.0f);
      if (levels_) {
        AddByLevel(r, w, row, first, seen, r.o + i * r.ld_o);
      }
    }
    if (levels_) return;
    g.n = value_dim_;
    g.lda = ld_score_;
    g.ldb = kCacheGroup * v_.groups;
    g.c = r.o;
    g.ldc = r.ld_o;
    ForChunks(r, v_, begin, [&](int64_t first, int64_t n, const uint8_t* row) {
      CacheRows::Get().widen(options_.format, row, v_.row_bytes, n, v_.groups,
                             w.wide);
      g.k = n;
      g.a = w.score + first;
      g.add = first > begin;
      RowProducts<float>::Get().by_sums(g);
    });
  }

  // Calls fn(first key, keys, the first one's head) for all keys from `begin`
  // on, in pieces of at most kChunkKeys that lie one after another.
  template <typename Fn>
  void ForChunks(const Rows& r, const PackedHeads& heads, int64_t begin,
                 Fn fn) const {
    const int64_t size = view_.block_size;
    for (int64_t first = begin; first < r.keys;) {
      const int64_t end =
          std::min({r.keys, first + kChunkKeys, (first / size + 1) * size});
      fn(first, end - first,
         heads.data + view_.Slot(r.where, first) * heads.row_bytes +
             r.kv_head * heads.head_bytes);
      first = end;
    }
  }

  // o = the mean of the values of keys [first, seen) by what `p` is in powers
  // of two.
  void AddByLevel(const Rows& r, const Worker& w, const float* p, int64_t first,
                  int64_t seen, float* o) const {
    const VectorMath<float>& vec = VectorMath<float>::Get();
    const float sum = vec.sum(p + first, seen - first);
    if (std::isnan(sum)) {
      std::fill_n(o, value_dim_, sum);
      return;
    }
    const float largest = vec.max(p + first, seen - first);
    if (!(largest > 0)) {  // As softmax: nothing to attend to.
      std::fill_n(o, value_dim_, 0.0f);
      return;
    }
    CacheRows::Get().find_levels(*levels_, p + first, largest, seen - first,
                                 w.level + first);
    double weight = 0;
    for (int64_t j = first; j < seen; ++j) weight += levels_->value(w.level[j]);
    Rows of_row = r;
    of_row.keys = seen;
    for (int64_t g = 0; g < v_.groups; ++g) {
      const int64_t columns =
          std::min(kCacheGroup, value_dim_ - g * kCacheGroup);
      AddGroup(of_row, w, first, g, weight, columns, o + g * kCacheGroup);
    }
  }

  // BF16's exponents of the scales of all values' groups from key `begin` on;
  // 0: the scale is none, 255: NaN.
  void ReadExponents(const Rows& r, const Worker& w, int64_t begin) const {
    const int64_t group_bytes = CacheGroupBytes(options_.format);
    const int64_t code_bytes = CacheCodeBytes(options_.format);
    ForChunks(r, v_, begin, [&](int64_t key, int64_t n, const uint8_t* row) {
      for (int64_t i = 0; i < n; ++i, row += v_.row_bytes) {
        for (int64_t g = 0; g < v_.groups; ++g) {
          BFloat16 scale;
          std::memcpy(&scale, row + g * group_bytes + code_bytes,
                      sizeof(scale));
          w.exponent[g * ld_score_ + key + i] = scale.bits >> 7 & 255;
        }
      }
    });
  }

  void AddGroup(const Rows& r, const Worker& w, int64_t first, int64_t g,
                double weight, int64_t columns, float* o) const {
    const uint8_t* const exponent = w.exponent + g * ld_score_;
    int top = 0;  // The largest exponent of those that count.
    for (int64_t j = first; j < r.keys; ++j) {
      const bool counts = w.level[j] != LogLevels::kDropped;
      top = std::max<int>(top, counts ? exponent[j] : 0);
    }
    if (top == 255 || top == 0) {
      std::fill_n(o, columns,
                  top == 0 ? 0 : std::numeric_limits<float>::quiet_NaN());
      return;
    }
    LevelSums sums;
    sums.format = options_.format;
    sums.stride = v_.row_bytes;
    sums.top = top;
    sums.steps = levels_->steps_per_octave();
    sums.num_levels = levels_->num_levels();
    sums.sum = w.sum;
    const int64_t num_sums = (sums.num_levels + 1) * kCacheGroup;
    const int64_t offset = g * CacheGroupBytes(options_.format);
    std::fill_n(w.sum, num_sums, 0);
    std::fill_n(w.total, num_sums, 0);
    int64_t added = 0;
    ForChunks(r, v_, first, [&](int64_t key, int64_t n, const uint8_t* row) {
      const uint8_t* const level = w.level + key;
      if (*std::min_element(level, level + n) == LogLevels::kDropped) return;
      if (added + n > kMaxShortSums) {
        CacheRows::Get().flush(num_sums, w.sum, w.total);
        added = 0;
      }
      added += n;
      sums.group = row + offset;
      sums.rows = n;
      sums.level = level;
      sums.exponent = exponent + key;
      CacheRows::Get().add_codes(sums);
    });
    CacheRows::Get().flush(num_sums, w.sum, w.total);
    // Sums of up to 2^24 are floats exactly; so are the products by powers.
    float mean[kCacheGroup] = {};
    for (int i = 0; i < sums.num_levels; ++i) {
      const float value = levels_->value(static_cast<uint8_t>(i));
      const int32_t* const of_level = w.total + i * kCacheGroup;
      for (int64_t c = 0; c < kCacheGroup; ++c) {
        mean[c] += value * static_cast<float>(of_level[c]);
      }
    }
    const auto unit = static_cast<float>(std::ldexp(1 / weight, top - 127));
    for (int64_t c = 0; c < columns; ++c) o[c] = mean[c] * unit;
  }

  const KernelContext& ctx_;
  const CacheOptions options_;
  const int64_t heads_, kv_heads_, group_, key_dim_, value_dim_;
  const float scale_;
  const int64_t window_, slots_;
  const CacheView view_;
  const PackedHeads k_, v_;
  std::optional<LogLevels> levels_;
  TokenRun* runs_ = nullptr;
  int64_t piece_heads_ = 1;
  int64_t ld_score_ = 0, score_size_ = 0, wide_size_ = 0;
  float* score_ = nullptr;
  float* wide_ = nullptr;
  uint8_t* level_ = nullptr;
  uint8_t* exponent_ = nullptr;
  int16_t* sum_ = nullptr;
  int32_t* total_ = nullptr;
};

}  // namespace

absl::Status AttendToPackedCache(const KernelContext& context) {
  return PackedAttentionKernel(context).Run();
}

void RegisterPackedAttentionKernels(KernelRegistry& kernels) {
  kernels.Register(kPackedCacheWrite, DType::kF32, RunPackedCacheWrite);
  kernels.Register(kPackedAttention, DType::kF32, AttendToPackedCache);
}

}  // namespace strata
