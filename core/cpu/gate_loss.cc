#include "core/cpu/gate_loss.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "absl/status/status.h"
#include "core/cpu/row_chunks.h"
#include "core/cpu/vector_math.h"
#include "core/ops/gate_loss.h"
#include "core/runtime/kernel.h"
#include "core/runtime/kernel_registry.h"
#include "core/tensor/tensor.h"

namespace strata {
namespace {

// The sum of term(i) over the survivors i and their number, both added up in
// chunks of fixed size.
struct SurvivorSum {
  double sum = 0;
  int64_t count = 0;
  double mean() const { return count > 0 ? sum / count : 0; }
};

template <typename Term>
SurvivorSum SumSurvivors(const KernelContext& ctx, const TensorView& mask,
                         Term term) {
  const int64_t n = mask.num_elements();
  const int64_t num_chunks = (n + kChunkElements - 1) / kChunkElements;
  auto* const part = ctx.scratch.Take<SurvivorSum>(num_chunks);
  const uint8_t* const survives = mask.as<uint8_t>();
  ctx.pool.ParallelFor(num_chunks, [&](int64_t chunk) {
    const int64_t end = std::min(n, (chunk + 1) * kChunkElements);
    SurvivorSum local;
    for (int64_t i = chunk * kChunkElements; i < end; ++i) {
      if (survives[i] == 0) continue;
      local.sum += term(i);
      ++local.count;
    }
    part[chunk] = local;
  });
  SurvivorSum total;
  for (int64_t c = 0; c < num_chunks; ++c) {
    total.sum += part[c].sum;
    total.count += part[c].count;
  }
  return total;
}

// BCE(sigmoid(c), p) in a form that never overflows.
template <typename T>
absl::Status RunCoarseDistill(const KernelContext& ctx) {
  const T* const c = ctx.in(0).as<T>();
  const T* const p = ctx.in(1).as<T>();
  const SurvivorSum total = SumSurvivors(ctx, ctx.in(2), [&](int64_t i) {
    return std::max(c[i], T{0}) - c[i] * p[i] +
           std::log1p(std::exp(-std::abs(c[i])));
  });
  *ctx.out(0).as<T>() = static_cast<T>(total.mean());
  return absl::OkStatus();
}

template <typename T>
absl::Status RunCoarseDistillGrad(const KernelContext& ctx) {
  const TensorView& mask = ctx.in(3);
  const SurvivorSum total =
      SumSurvivors(ctx, mask, [](int64_t i) { return 0; });
  const T factor = *ctx.in(0).as<T>() / std::max<int64_t>(1, total.count);
  const T* const c = ctx.in(1).as<T>();
  const T* const p = ctx.in(2).as<T>();
  const uint8_t* const survives = mask.as<uint8_t>();
  T* const dc = ctx.out(0).as<T>();
  const VectorMath<T>& vec = VectorMath<T>::Get();
  ForElementChunks(
      ctx.pool, mask.num_elements(), [&](int64_t begin, int64_t end) {
        vec.sigmoid(c + begin, end - begin, dc + begin);
        for (int64_t i = begin; i < end; ++i) {
          dc[i] = survives[i] != 0 ? (dc[i] - p[i]) * factor : T{0};
        }
      });
  return absl::OkStatus();
}

template <typename T>
absl::Status RunExpectedCost(const KernelContext& ctx) {
  const T* const p = ctx.in(0).as<T>();
  const SurvivorSum total =
      SumSurvivors(ctx, ctx.in(1), [&](int64_t i) { return p[i]; });
  *ctx.out(0).as<T>() = static_cast<T>(total.mean());
  return absl::OkStatus();
}

template <typename T>
absl::Status RunExpectedCostGrad(const KernelContext& ctx) {
  const TensorView& mask = ctx.in(2);
  const SurvivorSum total =
      SumSurvivors(ctx, mask, [](int64_t i) { return 0; });
  const T share = *ctx.in(0).as<T>() / std::max<int64_t>(1, total.count);
  const uint8_t* const survives = mask.as<uint8_t>();
  T* const dp = ctx.out(0).as<T>();
  ForElementChunks(ctx.pool, mask.num_elements(),
                   [&](int64_t begin, int64_t end) {
                     for (int64_t i = begin; i < end; ++i) {
                       dp[i] = survives[i] != 0 ? share : T{0};
                     }
                   });
  return absl::OkStatus();
}

// The sequences of a balance loss and, of each, the share f of every expert.
// Without seq_start all tokens are one sequence.
class ExpertShares {
 public:
  // Operands from `p` on: p [t, E], expert [t, k], seq_start? [S + 1].
  ExpertShares(const KernelContext& ctx, int p)
      : t_(ctx.in(p).dim(0)),
        experts_(ctx.in(p).dim(1)),
        k_(ctx.in(p + 1).dim(1)),
        start_(ctx.has(p + 2) ? ctx.in(p + 2).as<int32_t>() : nullptr),
        num_sequences_(start_ != nullptr ? ctx.in(p + 2).dim(0) - 1 : 1),
        share_(ctx.scratch.Take<double>(num_sequences_ * experts_)) {
    const int32_t* const expert = ctx.in(p + 1).as<int32_t>();
    for (int64_t s = 0; s < num_sequences_; ++s) {
      num_filled_ += end(s) > begin(s);
    }
    ctx.pool.ParallelFor(num_sequences_, [&](int64_t s) {
      double* const share = share_ + s * experts_;
      std::fill_n(share, experts_, 0.0);
      double choices = 0;
      for (int64_t i = begin(s) * k_; i < end(s) * k_; ++i) {
        if (expert[i] < 0) continue;
        ++share[expert[i]];
        ++choices;
      }
      for (int64_t e = 0; e < experts_; ++e) {
        share[e] *= static_cast<double>(experts_) / std::max(1.0, choices);
      }
    });
  }

  int64_t num_sequences() const { return num_sequences_; }
  int64_t begin(int64_t s) const { return start_ != nullptr ? start_[s] : 0; }
  int64_t end(int64_t s) const {
    return start_ != nullptr ? start_[s + 1] : t_;
  }
  const double* share(int64_t s) const { return share_ + s * experts_; }
  // What a token of sequence s counts in the mean.
  double token_weight(int64_t s) const {
    return 1.0 / static_cast<double>((end(s) - begin(s)) * num_filled_);
  }

 private:
  const int64_t t_, experts_, k_;
  const int32_t* const start_;
  const int64_t num_sequences_;
  double* const share_;  // [sequences, E]
  int64_t num_filled_ = 0;
};

// Of a row: the sum of p, and the mean of `share` weighed by p.
template <typename T>
struct RowShare {
  RowShare(const T* p, const double* share, int64_t experts) {
    double dot = 0;
    for (int64_t e = 0; e < experts; ++e) {
      sum += p[e];
      dot += share[e] * p[e];
    }
    mean = sum > 0 ? dot / sum : 0;
  }

  double sum = 0;
  double mean = 0;
};

template <typename T>
absl::Status RunBalanceLoss(const KernelContext& ctx) {
  const int64_t experts = ctx.in(0).dim(1);
  const T* const p = ctx.in(0).as<T>();
  const ExpertShares shares(ctx, 0);
  double* const part = ctx.scratch.Take<double>(shares.num_sequences());
  ctx.pool.ParallelFor(shares.num_sequences(), [&](int64_t s) {
    double sum = 0;
    for (int64_t i = shares.begin(s); i < shares.end(s); ++i) {
      sum += RowShare<T>(p + i * experts, shares.share(s), experts).mean;
    }
    part[s] = sum > 0 ? sum * shares.token_weight(s) : 0;
  });
  double loss = 0;
  for (int64_t s = 0; s < shares.num_sequences(); ++s) loss += part[s];
  *ctx.out(0).as<T>() = static_cast<T>(loss);
  return absl::OkStatus();
}

// d(p_e / sum)/dp: of row i, (f_e - mean) / sum.
template <typename T>
absl::Status RunBalanceLossGrad(const KernelContext& ctx) {
  const int64_t experts = ctx.in(1).dim(1);
  const double dloss = *ctx.in(0).as<T>();
  const T* const p = ctx.in(1).as<T>();
  T* const dp = ctx.out(0).as<T>();
  const ExpertShares shares(ctx, 1);
  // Rows of no sequence have no gradient.
  std::fill_n(dp, ctx.in(1).num_elements(), T{0});
  ctx.pool.ParallelFor(shares.num_sequences(), [&](int64_t s) {
    const double* const share = shares.share(s);
    for (int64_t i = shares.begin(s); i < shares.end(s); ++i) {
      const RowShare<T> row(p + i * experts, share, experts);
      if (!(row.sum > 0)) continue;
      const double factor = dloss * shares.token_weight(s) / row.sum;
      for (int64_t e = 0; e < experts; ++e) {
        dp[i * experts + e] = static_cast<T>(factor * (share[e] - row.mean));
      }
    }
  });
  return absl::OkStatus();
}

template <typename T>
T LogSumExp(const VectorMath<T>& vec, const T* row, int64_t n) {
  const T max = vec.max(row, n);
  return max + std::log(vec.sum_exp(row, 1, max, n));
}

template <typename T>
absl::Status RunZLoss(const KernelContext& ctx) {
  const VectorMath<T>& vec = VectorMath<T>::Get();
  const int64_t t = ctx.in(0).dim(0), experts = ctx.in(0).dim(1);
  const T* const logits = ctx.in(0).as<T>();
  T* const square = ctx.scratch.Take<T>(t);
  ForRowChunks(ctx.pool, t, experts, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const T lse = LogSumExp(vec, logits + i * experts, experts);
      square[i] = lse * lse;
    }
  });
  double sum = 0;
  for (int64_t i = 0; i < t; ++i) sum += square[i];
  *ctx.out(0).as<T>() = static_cast<T>(sum / std::max<int64_t>(1, t));
  return absl::OkStatus();
}

// 2 lse softmax(logits) / t.
template <typename T>
absl::Status RunZLossGrad(const KernelContext& ctx) {
  const VectorMath<T>& vec = VectorMath<T>::Get();
  const int64_t t = ctx.in(1).dim(0), experts = ctx.in(1).dim(1);
  const T* const logits = ctx.in(1).as<T>();
  T* const dlogits = ctx.out(0).as<T>();
  const T share = *ctx.in(0).as<T>() * 2 / std::max<int64_t>(1, t);
  ForRowChunks(ctx.pool, t, experts, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const T* const row = logits + i * experts;
      const T lse = LogSumExp(vec, row, experts);
      vec.exp(row, 1, lse, share * lse, experts, dlogits + i * experts);
    }
  });
  return absl::OkStatus();
}

template <typename T>
void RegisterFor(KernelRegistry& kernels) {
  const DType dtype = DTypeOf<T>();
  kernels.Register(kCoarseDistill, dtype, RunCoarseDistill<T>);
  kernels.Register(kCoarseDistillGrad, dtype, RunCoarseDistillGrad<T>);
  kernels.Register(kExpectedCost, dtype, RunExpectedCost<T>);
  kernels.Register(kExpectedCostGrad, dtype, RunExpectedCostGrad<T>);
  kernels.Register(kBalanceLoss, dtype, RunBalanceLoss<T>);
  kernels.Register(kBalanceLossGrad, dtype, RunBalanceLossGrad<T>);
  kernels.Register(kZLoss, dtype, RunZLoss<T>);
  kernels.Register(kZLossGrad, dtype, RunZLossGrad<T>);
}

}  // namespace

void RegisterGateLossKernels(KernelRegistry& kernels) {
  RegisterFor<float>(kernels);
  RegisterFor<double>(kernels);
}

}  // namespace strata
