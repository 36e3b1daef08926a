#include "core/cpu/fused/fused_loss.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/base/status_macros.h"
#include "core/cpu/gemm.h"
#include "core/cpu/loss.h"
#include "core/cpu/row_chunks.h"
#include "core/cpu/vector_math.h"
#include "core/ops/head_loss.h"
#include "core/runtime/kernel.h"
#include "core/runtime/kernel_registry.h"
#include "core/tensor/bfloat16.h"
#include "core/tensor/dtype.h"
#include "core/tensor/tensor.h"

namespace strata {
namespace {

// Words, or rows, that one task's product makes.
constexpr int64_t kPanel = 64;

template <typename T>
struct Head {
  const KernelContext& ctx;
  int64_t d = 0, vocab = 0;
  bool gradients = false;
  T share = 0;          // dloss over the number of tokens that count.
  T* logits = nullptr;  // [chunk_rows, vocab], later their gradient.
  T* wide = nullptr;    // [threads, kPanel, d], of weights in BF16.

  // Calls fn(begin, count, worker) for panels of [0, n).
  template <typename Fn>
  void ForPanels(int64_t n, Fn fn) const {
    ctx.pool.ParallelFor((n + kPanel - 1) / kPanel,
                         [&](int64_t panel, int worker) {
                           const int64_t begin = panel * kPanel;
                           fn(begin, std::min(kPanel, n - begin), worker);
                         });
  }

  // `count` rows of the weight from `begin` on, in T.
  const T* WeightRows(int64_t begin, int64_t count, int worker) const {
    const TensorView& w = ctx.in(kHeadWeight);
    if (wide == nullptr) return w.as<T>() + begin * d;
    T* const rows = wide + worker * kPanel * d;
    const BFloat16* const narrow = w.as<BFloat16>() + begin * d;
    std::transform(narrow, narrow + count * d, rows, Widen);
    return rows;
  }

  void MakeLogits(const T* x, int64_t rows) const {
    ForPanels(vocab, [&](int64_t begin, int64_t count, int worker) {
      GemmArgs<T> g;
      g.transpose_b = true;
      g.m = rows;
      g.n = count;
      g.k = g.lda = g.ldb = d;
      g.a = x;
      g.b = WeightRows(begin, count, worker);
      g.c = logits + begin;
      g.ldc = vocab;
      Gemm(g);
    });
  }

  // Losses of rows from `first` on; logits become their gradient, if wanted.
  void TakeLosses(int64_t first, int64_t rows) const {
    const VectorMath<T>& vec = VectorMath<T>::Get();
    const int32_t* const target = ctx.in(kHeadTarget).as<int32_t>() + first;
    T* const nll = ctx.out(kHeadNll).template as<T>() + first;
    uint8_t* const hit = ctx.out(kHeadHit).as<uint8_t>() + first;
    ForRowChunks(ctx.pool, rows, vocab, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        T* const row = logits + i * vocab;
        if (target[i] < 0) {
          nll[i] = 0;
          hit[i] = 0;
          std::fill_n(row, vocab, T{0});
          continue;
        }
        const T max = vec.max(row, vocab);
        const T lse = max + std::log(vec.sum_exp(row, 1, max, vocab));
        nll[i] = lse - row[target[i]];
        hit[i] = std::find(row, row + vocab, max) == row + target[i];
        if (!gradients) continue;
        vec.exp(row, 1, lse, share, vocab, row);
        row[target[i]] -= share;
      }
    });
  }

  void AddWeightGrad(const T* x, int64_t rows, T keep) const {
    ForPanels(vocab, [&](int64_t begin, int64_t count, int /*worker*/) {
      GemmArgs<T> g;
      g.transpose_a = true;
      g.m = count;
      g.n = g.ldb = g.ldc = d;
      g.k = rows;
      g.a = logits + begin;
      g.lda = vocab;
      g.b = x;
      g.beta = keep;
      g.c = ctx.out(kHeadDw).template as<T>() + begin * d;
      Gemm(g);
    });
  }

  void MakeInputGrad(T* dx, int64_t rows) const {
    ForPanels(rows, [&](int64_t begin, int64_t count, int /*worker*/) {
      GemmArgs<T> g;
      g.m = count;
      g.n = g.ldb = g.ldc = d;
      g.k = g.lda = vocab;
      g.a = logits + begin * vocab;
      g.b = ctx.in(kHeadWeight).template as<T>();
      g.c = dx + begin * d;
      Gemm(g);
    });
  }
};

template <typename T>
absl::Status RunHead(const KernelContext& ctx, bool gradients) {
  Head<T> head = {ctx};
  head.gradients = gradients;
  const int64_t t = ctx.in(kHeadX).dim(0);
  const int64_t chunk = std::min(t, ctx.attrs().Int("chunk_rows"));
  head.d = ctx.in(kHeadX).dim(1);
  head.vocab = ctx.in(kHeadWeight).dim(0);
  ASSIGN_OR_RETURN(
      const int64_t targets,
      CountTargets(ctx.in(kHeadTarget).as<int32_t>(), t, head.vocab));
  const int64_t count = std::max<int64_t>(1, targets);
  head.logits = ctx.scratch.Take<T>(chunk * head.vocab);
  if (ctx.in(kHeadWeight).dtype == DType::kBF16) {
    head.wide = ctx.scratch.Take<T>(ctx.pool.num_threads() * kPanel * head.d);
  }
  if (gradients) {
    head.share = *ctx.in(kHeadLossGrad).as<T>() / static_cast<T>(count);
    if (t == 0) {
      std::fill_n(ctx.out(kHeadDw).as<T>(), head.vocab * head.d, T{0});
    }
  }
  for (int64_t first = 0; first < t; first += chunk) {
    const int64_t rows = std::min(chunk, t - first);
    const T* const x = ctx.in(kHeadX).as<T>() + first * head.d;
    head.MakeLogits(x, rows);
    head.TakeLosses(first, rows);
    if (!gradients) continue;
    head.AddWeightGrad(x, rows, first == 0 ? T{0} : T{1});
    head.MakeInputGrad(ctx.out(kHeadDx).as<T>() + first * head.d, rows);
  }
  const T* const nll = ctx.out(kHeadNll).as<T>();
  double sum = 0;
  for (int64_t i = 0; i < t; ++i) sum += nll[i];
  *ctx.out(kHeadLossMean).as<T>() =
      static_cast<T>(sum / static_cast<double>(count));
  return absl::OkStatus();
}

template <typename T>
absl::Status RunHeadLoss(const KernelContext& ctx) {
  return RunHead<T>(ctx, /*gradients=*/true);
}

template <typename T>
absl::Status RunHeadScore(const KernelContext& ctx) {
  return RunHead<T>(ctx, /*gradients=*/false);
}

}  // namespace

void RegisterFusedLossKernels(KernelRegistry& kernels) {
  kernels.Register(kHeadLoss, DType::kF32, RunHeadLoss<float>);
  kernels.Register(kHeadLoss, DType::kF64, RunHeadLoss<double>);
  kernels.Register(kHeadScore, DType::kF32, RunHeadScore<float>);
  kernels.Register(kHeadScore, DType::kF64, RunHeadScore<double>);
}

}  // namespace strata
