#include "core/cpu/fused/fused_gate.h"

#include <algorithm>
#include <cstdint>

#include "absl/status/status.h"
#include "core/cpu/fused/fused_tiles.h"
#include "core/cpu/gate_rows.h"
#include "core/cpu/row_products.h"
#include "core/cpu/vector_math.h"
#include "core/ops/fused_gate.h"
#include "core/runtime/kernel.h"
#include "core/runtime/kernel_registry.h"
#include "core/tensor/tensor.h"

namespace strata {
namespace {

// a [m, k] by b [k, n]: each row a sum of rows of b.
template <typename T>
void SumOfRows(const T* a, int64_t m, int64_t k, const T* b, int64_t n, T* c) {
  RowProductArgs<T> g;
  g.m = m;
  g.n = n;
  g.k = k;
  g.a = a;
  g.lda = k;
  g.b = b;
  g.ldb = n;
  g.c = c;
  g.ldc = n;
  RowProducts<T>::Get().by_sums(g);
}

template <typename T>
TileRowsOf<T> Dense(const T* a, int64_t m, int64_t k) {
  TileRowsOf<T> rows;
  rows.a = a;
  rows.m = m;
  rows.k = rows.lda = k;
  return rows;
}

// --- ExpertContext ---

// On the calling thread: some dozens of experts, all within the first cache.
template <typename T>
absl::Status RunExpertContext(const KernelContext& ctx) {
  const VectorMath<T>& vec = VectorMath<T>::Get();
  const TensorView& embedding = ctx.in(kContextEmbedding);
  const int64_t n = embedding.dim(0), r = embedding.dim(1);
  const T* const e = embedding.as<T>();     // [n, r]
  T* const context = ctx.out(0).as<T>();    // [n, r]
  T* const key = ctx.out(1).as<T>();        // [n, r]
  T* const value = ctx.out(2).as<T>();      // [n, r]
  T* const q = ctx.scratch.Take<T>(n * r);  // Later what attention makes.
  T* const score = ctx.scratch.Take<T>(n * n);
  const T scale = static_cast<T>(ctx.attrs().Float("scale"));
  const TileRowsOf<T> experts = Dense(e, n, r);
  experts.Times(ctx.in(kContextQ), 0, r, q, r);
  experts.Times(ctx.in(kContextK), 0, r, key, r);
  experts.Times(ctx.in(kContextV), 0, r, value, r);
  TensorView keys = embedding;
  keys.data = key;
  Dense<T>(q, n, r).Times(keys, 0, n, score, n);
  for (int64_t i = 0; i < n; ++i) {
    vec.softmax(score + i * n, scale, n, score + i * n);
  }
  SumOfRows(score, n, n, value, r, q);
  Dense<T>(q, n, r).Times(ctx.in(kContextO), 0, r, context, r);
  vec.add(e, context, n * r, context);
  const TileRowsOf<T> contextualised = Dense<T>(context, n, r);
  contextualised.Times(ctx.in(kContextCrossK), 0, r, key, r);
  contextualised.Times(ctx.in(kContextCrossV), 0, r, q, r);
  Dense<T>(q, n, r).Times(ctx.in(kContextCrossO), 0, r, value, r);
  return absl::OkStatus();
}

// --- TierGate ---

// Tokens of a piece: what a gate makes of them stays in the first cache.
constexpr int64_t kGateRows = 16;
constexpr int64_t kFewTokens = 32;  // As for flat gates.

template <typename T>
class TierGateKernel {
 public:
  explicit TierGateKernel(const KernelContext& ctx)
      : ctx_(ctx),
        t_(ctx.in(kTierX).dim(0)),
        d_(ctx.in(kTierX).dim(1)),
        experts_(ctx.in(kTierKey).dim(0)),
        groups_(ctx.in(kTierKey).dim(1)),
        r_(ctx.in(kTierExperts).dim(1)),
        projected_(ctx.in(kTierToken).dim(0)),
        has_energy_(projected_ > r_),
        energies_(has_energy_ ? projected_ - r_ : d_),
        x_(ctx.in(kTierX).template as<T>()),
        bias_(ctx.has(kTierBias) ? ctx.in(kTierBias).template as<T>()
                                 : nullptr),
        choice_(ctx.attrs(), experts_, ctx.attrs().Float("tau")),
        normalizer_(ctx.attrs()) {}

  void Run() {
    const int workers = ctx_.pool.num_threads();
    token_ = ctx_.scratch.template Take<T>(t_ * projected_);
    no_bias_ = ctx_.scratch.template Take<T>(experts_);
    std::fill_n(no_bias_, experts_, T{0});
    // Of a worker: signatures, coarse scores, attention, affinities, refined
    // queries of a piece; two rows of scratch, sorted weights.
    floats_ = kGateRows * (groups_ + 3 * experts_ + r_) + 2 * experts_ +
              choice_.k_max;
    of_workers_ = ctx_.scratch.template Take<T>(workers * floats_);
    masks_ =
        ctx_.scratch.template Take<uint8_t>(workers * kGateRows * experts_);
    lists_ =
        ctx_.scratch.template Take<Candidate<T>>(workers * choice_.list_size());
    const int64_t pieces = CeilDiv(t_, kGateRows);
    if (t_ < kFewTokens) {
      // Threads share the columns rather than the tokens.
      const int64_t columns = PieceColumns(projected_, d_);
      ForPieces(ctx_.pool, CeilDiv(projected_, columns), t_ * d_ * projected_,
                [&](int64_t piece, int) {
                  Project(0, t_, piece * columns, columns);
                });
      for (int64_t piece = 0; piece < pieces; ++piece) Choose(piece, 0);
      return;
    }
    ctx_.pool.ParallelFor(pieces, [&](int64_t piece, int worker) {
      const int64_t begin = piece * kGateRows;
      const int64_t end = std::min(t_, begin + kGateRows);
      Project(begin, end, 0, projected_);
      Choose(piece, worker);
    });
  }

 private:
  // Columns of the energies and queries of tokens [begin, end).
  void Project(int64_t begin, int64_t end, int64_t first, int64_t count) const {
    Dense<T>(x_ + begin * d_, end - begin, d_)
        .Times(ctx_.in(kTierToken), first, std::min(count, projected_ - first),
               token_ + begin * projected_ + first, projected_);
  }

  // All that comes after the product by a weight.
  void Choose(int64_t piece, int worker) const {
    const VectorMath<T>& vec = VectorMath<T>::Get();
    const int64_t begin = piece * kGateRows;
    const int64_t rows = std::min(kGateRows, t_ - begin);
    T* const signature = of_workers_ + worker * floats_;
    T* const coarse = signature + kGateRows * groups_;
    T* const attention = coarse + kGateRows * experts_;
    T* const affinity = attention + kGateRows * experts_;
    T* const refined = affinity + kGateRows * experts_;
    T* const row_scratch = refined + kGateRows * r_;
    T* const sorted = row_scratch + 2 * experts_;
    uint8_t* const masks = masks_ + worker * kGateRows * experts_;
    const T* const token = token_ + begin * projected_;
    for (int64_t i = 0; i < rows; ++i) {
      SignatureRow(has_energy_ ? token + i * projected_ : x_ + (begin + i) * d_,
                   groups_, energies_ / groups_, signature + i * groups_);
    }
    Dense<T>(signature, rows, groups_)
        .Times(ctx_.in(kTierKey), 0, experts_, coarse, experts_);
    TileRowsOf<T> query = Dense<T>(token + projected_ - r_, rows, r_);
    query.lda = projected_;
    query.Times(ctx_.in(kTierExpertKey), 0, experts_, attention, experts_);
    const auto attention_scale =
        static_cast<T>(ctx_.attrs().Float("attention_scale"));
    for (int64_t i = 0; i < rows; ++i) {
      uint8_t* const mask = masks + i * experts_;
      Mask(coarse + i * experts_, row_scratch, mask);
      T* const row = attention + i * experts_;
      KeepMasked(row, mask, experts_, row);
      vec.softmax(row, attention_scale, experts_, row);
    }
    SumOfRows(attention, rows, experts_,
              ctx_.in(kTierExpertValue).template as<T>(), r_, refined);
    for (int64_t i = 0; i < rows; ++i) {
      vec.add(query.a + i * projected_, refined + i * r_, r_, refined + i * r_);
    }
    Dense<T>(refined, rows, r_)
        .Times(ctx_.in(kTierExperts), 0, experts_, affinity, experts_);
    vec.scale(static_cast<T>(ctx_.attrs().Float("affinity_scale")), affinity,
              rows * experts_, affinity);
    if (ctx_.attrs().Int("add_coarse") != 0) {
      vec.add(affinity, coarse, rows * experts_, affinity);
    }
    vec.sigmoid(affinity, rows * experts_, affinity);
    int32_t* const expert = ctx_.out(0).template as<int32_t>();
    uint8_t* const stay = ctx_.out(1).template as<uint8_t>();
    T* const weight = ctx_.out(2).template as<T>();
    const T scale = static_cast<T>(ctx_.attrs().Float("scale"));
    const int64_t k = choice_.k_max;
    for (int64_t i = 0; i < rows; ++i) {
      const T* const p = affinity + i * experts_;
      int32_t* const chosen = expert + (begin + i) * k;
      stay[begin + i] =
          choice_.Select(p, masks + i * experts_, bias_,
                         lists_ + worker * choice_.list_size(), chosen);
      normalizer_.Weigh(scale, p, chosen, k, sorted, weight + (begin + i) * k);
    }
  }

  // Which experts a row of coarse scores leaves.
  void Mask(const T* coarse, T* scratch, uint8_t* mask) const {
    const VectorMath<T>& vec = VectorMath<T>::Get();
    T* const score = scratch + experts_;
    vec.sigmoid(coarse, experts_, score);
    vec.keep_largest(score, bias_ != nullptr ? bias_ : no_bias_, experts_,
                     ctx_.attrs().Int("keep"), scratch, mask);
  }

  const KernelContext& ctx_;
  const int64_t t_, d_, experts_, groups_, r_, projected_;
  const bool has_energy_;
  const int64_t energies_;
  const T* const x_;
  const T* const bias_;
  const AdaptiveRow<T> choice_;
  const Normalizer<T> normalizer_;
  int64_t floats_ = 0;
  T* token_ = nullptr;  // [t, energies + r], or the queries alone
  T* no_bias_ = nullptr;
  T* of_workers_ = nullptr;
  uint8_t* masks_ = nullptr;
  Candidate<T>* lists_ = nullptr;
};

template <typename T>
absl::Status RunTierGate(const KernelContext& ctx) {
  TierGateKernel<T>(ctx).Run();
  return absl::OkStatus();
}

template <typename T>
void RegisterFor(KernelRegistry& kernels) {
  kernels.Register(kExpertContext, DTypeOf<T>(), RunExpertContext<T>);
  kernels.Register(kTierGate, DTypeOf<T>(), RunTierGate<T>);
}

}  // namespace

void RegisterFusedGateKernels(KernelRegistry& kernels) {
  RegisterFor<float>(kernels);
  RegisterFor<double>(kernels);
}

}  // namespace strata
