#include "core/cpu/gate.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "core/cpu/row_chunks.h"
#include "core/cpu/vector_math.h"
#include "core/ops/gate.h"
#include "core/parallel/load_controller.h"
#include "core/runtime/kernel.h"
#include "core/runtime/kernel_registry.h"
#include "core/tensor/tensor.h"

namespace strata {
namespace {

// --- The order of scores ---

// An integer that orders like `score`, -0 and 0 as equals, NaN below all else:
// sorting by it is defined for whatever a diverged model may produce.
int64_t SortKey(double score) {
  if (std::isnan(score)) return std::numeric_limits<int64_t>::min();
  score += 0.0;  // -0 becomes 0.
  int64_t bits;
  std::memcpy(&bits, &score, sizeof(bits));
  return bits < 0 ? bits ^ std::numeric_limits<int64_t>::max() : bits;
}

struct Candidate {
  int64_t key = 0;
  int32_t index = 0;
};

bool Better(const Candidate& a, const Candidate& b) {
  return a.key != b.key ? a.key > b.key : a.index < b.index;
}

// The best of a row of candidates that come in the order of their indexes. `k`
// is small, so insertion into a sorted list beats sorting the row.
class Best {
 public:
  Best(Candidate* list, int64_t k) : list_(list), k_(k) {}

  void Offer(int64_t key, int32_t index) {
    if (size_ == k_ && key <= list_[k_ - 1].key) return;
    int64_t at = size_ < k_ ? size_++ : k_ - 1;
    for (; at > 0 && list_[at - 1].key < key; --at) list_[at] = list_[at - 1];
    list_[at] = {key, index};
  }
  int64_t size() const { return size_; }
  const Candidate& operator[](int64_t i) const { return list_[i]; }

 private:
  Candidate* list_;
  int64_t k_;
  int64_t size_ = 0;
};

// --- Kernels ---

// Calls select(row, worker) for each row, in chunks of fixed size; `worker`
// indexes scratch.
template <typename Select>
void ForEachRow(ThreadPool& pool, int64_t rows, int64_t columns,
                Select select) {
  const int64_t chunk = std::max<int64_t>(1, kChunkElements / columns);
  pool.ParallelFor((rows + chunk - 1) / chunk, [&](int64_t i, int worker) {
    const int64_t end = std::min(rows, (i + 1) * chunk);
    for (int64_t row = i * chunk; row < end; ++row) select(row, worker);
  });
}

template <typename T>
absl::Status RunEnergySignature(const KernelContext& ctx) {
  const TensorView& x = ctx.in(0);
  const int64_t columns = x.dim(1);
  const int64_t groups = ctx.attrs().Int("groups");
  const int64_t width = columns / groups;
  const T* const in = x.as<T>();
  T* const out = ctx.out(0).as<T>();
  const T scale = std::sqrt(T{2} * width);
  const VectorMath<T>& vec = VectorMath<T>::Get();
  ForRowChunks(ctx.pool, x.dim(0), columns, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      T* const s = out + i * groups;
      T sum = 0;
      for (int64_t g = 0; g < groups; ++g) {
        s[g] = vec.sum_of_squares(in + i * columns + g * width, width);
        sum += s[g];
      }
      for (int64_t g = 0; g < groups; ++g) {
        s[g] = sum > 0 ? (std::sqrt(s[g] / sum * groups) - 1) * scale : T{0};
      }
    }
  });
  return absl::OkStatus();
}

template <typename T>
absl::Status RunCoarseFilter(const KernelContext& ctx) {
  const TensorView& score = ctx.in(0);
  const int64_t experts = score.dim(1);
  const int64_t keep = ctx.attrs().Int("keep");
  const T* const in = score.as<T>();
  const T* const bias = ctx.in(1).as<T>();
  uint8_t* const out = ctx.out(0).as<uint8_t>();
  auto* const scratch =
      ctx.scratch.Take<Candidate>(ctx.pool.num_threads() * experts);
  ForEachRow(ctx.pool, score.dim(0), experts, [&](int64_t i, int worker) {
    const T* const s = in + i * experts;
    Candidate* const list = scratch + worker * experts;
    for (int64_t e = 0; e < experts; ++e) {
      list[e] = {SortKey(s[e] + bias[e]), static_cast<int32_t>(e)};
    }
    std::nth_element(list, list + keep - 1, list + experts, Better);
    uint8_t* const mask = out + i * experts;
    std::fill_n(mask, experts, uint8_t{0});
    for (int64_t j = 0; j < keep; ++j) mask[list[j].index] = 1;
  });
  return absl::OkStatus();
}

template <typename T>
absl::Status RunAdaptiveSelect(const KernelContext& ctx) {
  const TensorView& p = ctx.in(0);
  const int64_t experts = p.dim(1);
  const double tau = ctx.attrs().Float("tau");
  const int64_t k_min = ctx.attrs().Int("k_min");
  const int64_t k_max = ctx.attrs().Int("k_max");
  const double exit_threshold = ctx.attrs().Float("exit_threshold");
  const T* const in = p.as<T>();
  const uint8_t* const mask = ctx.in(1).as<uint8_t>();
  const T* const bias = ctx.in(2).as<T>();
  int32_t* const expert = ctx.out(0).as<int32_t>();
  uint8_t* const stay = ctx.out(1).as<uint8_t>();
  auto* const scratch =
      ctx.scratch.Take<Candidate>(ctx.pool.num_threads() * k_max);

  const auto select_row = [&](int64_t i, Candidate* list) {
    const T* const row = in + i * experts;
    Best best(list, k_max);
    double sum = 0;
    double largest = -std::numeric_limits<double>::infinity();
    for (int64_t e = 0; e < experts; ++e) {
      if (mask[i * experts + e] == 0) continue;
      sum += row[e];
      largest = std::max<double>(largest, row[e]);
      best.Offer(SortKey(row[e] + bias[e]), static_cast<int32_t>(e));
    }
    int32_t* const chosen = expert + i * k_max;
    std::fill_n(chosen, k_max, -1);
    stay[i] = best.size() > 0 && !(largest < exit_threshold);
    if (stay[i] == 0) return;
    double taken = 0;
    for (int64_t j = 0; j < best.size(); ++j) {
      if (j >= k_min && taken >= tau * sum) break;
      chosen[j] = best[j].index;
      taken += row[chosen[j]];
    }
  };
  ForEachRow(ctx.pool, p.dim(0), experts, [&](int64_t i, int worker) {
    select_row(i, scratch + worker * k_max);
  });
  return absl::OkStatus();
}

template <typename T>
absl::Status RunTopKSelect(const KernelContext& ctx) {
  const TensorView& score = ctx.in(0);
  const int64_t experts = score.dim(1);
  const int64_t k = ctx.attrs().Int("k");
  const int64_t num_groups = ctx.attrs().Int("num_groups");
  const int64_t top_groups = ctx.attrs().Int("top_groups");
  const int64_t width = experts / num_groups;
  const T* const in = score.as<T>();
  const T* const bias = ctx.has(1) ? ctx.in(1).as<T>() : nullptr;
  int32_t* const out = ctx.out(0).as<int32_t>();
  // Of a worker: the biased row; lists of the experts chosen, of the groups
  // chosen and of a group's best two; whether each group is looked at.
  const int num_threads = ctx.pool.num_threads();
  T* const biased_rows = ctx.scratch.Take<T>(num_threads * experts);
  const int64_t list_size = k + top_groups + 2;
  auto* const lists = ctx.scratch.Take<Candidate>(num_threads * list_size);
  auto* const open_groups = ctx.scratch.Take<uint8_t>(num_threads * num_groups);

  const auto select_row = [&](int64_t i, T* biased, Candidate* list,
                              uint8_t* open) {
    for (int64_t e = 0; e < experts; ++e) {
      biased[e] = in[i * experts + e] + (bias != nullptr ? bias[e] : T{0});
    }
    std::fill_n(open, num_groups, uint8_t{top_groups == num_groups});
    if (top_groups < num_groups) {
      Best groups(list + k, top_groups);
      for (int64_t g = 0; g < num_groups; ++g) {
        const T* const of_group = biased + g * width;
        Best two(list + k + top_groups, std::min<int64_t>(2, width));
        for (int64_t e = 0; e < width; ++e) {
          two.Offer(SortKey(of_group[e]), static_cast<int32_t>(e));
        }
        T sum = of_group[two[0].index];
        if (two.size() > 1) sum += of_group[two[1].index];
        groups.Offer(SortKey(sum), static_cast<int32_t>(g));
      }
      for (int64_t j = 0; j < top_groups; ++j) open[groups[j].index] = 1;
    }
    Best best(list, k);
    for (int64_t g = 0; g < num_groups; ++g) {
      if (open[g] == 0) continue;
      for (int64_t e = g * width; e < (g + 1) * width; ++e) {
        best.Offer(SortKey(biased[e]), static_cast<int32_t>(e));
      }
    }
    for (int64_t j = 0; j < k; ++j) out[i * k + j] = best[j].index;
  };
  ForEachRow(ctx.pool, score.dim(0), experts, [&](int64_t i, int worker) {
    select_row(i, biased_rows + worker * experts, lists + worker * list_size,
               open_groups + worker * num_groups);
  });
  return absl::OkStatus();
}

// What SelectedWeight adds to a row's sum before it divides by it.
constexpr double kSumFloor = 1e-20;

// What the row's chosen p are divided by, and whether it moves with them.
template <typename T>
struct Divisor {
  Divisor(const Attrs& attrs, const T* p, const int32_t* expert, int64_t k) {
    if (attrs.Int("normalize") == 0) return;
    T sum = static_cast<T>(kSumFloor);
    for (int64_t j = 0; j < k; ++j) {
      if (expert[j] >= 0) sum += p[expert[j]];
    }
    const T floor = static_cast<T>(attrs.Float("floor"));
    is_sum = sum >= floor;
    value = is_sum ? sum : floor;
  }

  T value = 1;
  bool is_sum = false;
};

template <typename T>
absl::Status RunSelectedWeight(const KernelContext& ctx) {
  const int64_t experts = ctx.in(0).dim(1);
  const int64_t k = ctx.in(1).dim(1);
  const T scale = static_cast<T>(ctx.attrs().Float("scale"));
  const T* const p = ctx.in(0).as<T>();
  const int32_t* const expert = ctx.in(1).as<int32_t>();
  T* const out = ctx.out(0).as<T>();
  ForRowChunks(ctx.pool, ctx.in(0).dim(0), k, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const T* const row = p + i * experts;
      const int32_t* const chosen = expert + i * k;
      const Divisor<T> divisor(ctx.attrs(), row, chosen, k);
      const T factor = scale / divisor.value;
      for (int64_t j = 0; j < k; ++j) {
        out[i * k + j] = chosen[j] >= 0 ? factor * row[chosen[j]] : T{0};
      }
    }
  });
  return absl::OkStatus();
}

// Of weight = scale p / s, s the sum of the chosen p:
// dp = scale / s * (dweight - sum(dweight p) / s).
template <typename T>
absl::Status RunSelectedWeightGrad(const KernelContext& ctx) {
  const int64_t experts = ctx.in(1).dim(1);
  const int64_t k = ctx.in(2).dim(1);
  const T scale = static_cast<T>(ctx.attrs().Float("scale"));
  const T* const dweight = ctx.in(0).as<T>();
  const T* const p = ctx.in(1).as<T>();
  const int32_t* const expert = ctx.in(2).as<int32_t>();
  T* const dp = ctx.out(0).as<T>();
  ForRowChunks(ctx.pool, ctx.in(1).dim(0), experts,
               [&](int64_t begin, int64_t end) {
                 for (int64_t i = begin; i < end; ++i) {
                   const T* const row = p + i * experts;
                   const int32_t* const chosen = expert + i * k;
                   const Divisor<T> divisor(ctx.attrs(), row, chosen, k);
                   const T factor = scale / divisor.value;
                   T mean = 0;
                   if (divisor.is_sum) {
                     for (int64_t j = 0; j < k; ++j) {
                       if (chosen[j] >= 0) {
                         mean += dweight[i * k + j] * row[chosen[j]];
                       }
                     }
                     mean /= divisor.value;
                   }
                   T* const drow = dp + i * experts;
                   std::fill_n(drow, experts, T{0});
                   for (int64_t j = 0; j < k; ++j) {
                     if (chosen[j] >= 0) {
                       drow[chosen[j]] += factor * (dweight[i * k + j] - mean);
                     }
                   }
                 }
               });
  return absl::OkStatus();
}

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

template <typename T>
absl::Status RunLoadBias(const KernelContext& ctx) {
  LoadControllerConfig config;
  config.ema_decay = static_cast<float>(ctx.attrs().Float("ema_decay"));
  config.gain_p = static_cast<float>(ctx.attrs().Float("gain_p"));
  config.gain_i = static_cast<float>(ctx.attrs().Float("gain_i"));
  config.max_bias = static_cast<float>(ctx.attrs().Float("max_bias"));
  const int64_t experts = ctx.in(1).dim(0);
  const int32_t* const offset = ctx.in(0).as<int32_t>();
  auto* const load = ctx.scratch.Take<int64_t>(experts);
  for (int64_t e = 0; e < experts; ++e) load[e] = offset[e + 1] - offset[e];
  UpdateLoadBias<T, int64_t>(config, absl::MakeConstSpan(load, experts),
                             ctx.in(1).span<T>(), ctx.in(2).span<T>(),
                             ctx.in(3).span<T>());
  return absl::OkStatus();
}

template <typename T>
void RegisterFor(KernelRegistry& kernels) {
  const DType dtype = DTypeOf<T>();
  kernels.Register(kEnergySignature, dtype, RunEnergySignature<T>);
  kernels.Register(kCoarseFilter, dtype, RunCoarseFilter<T>);
  kernels.Register(kAdaptiveSelect, dtype, RunAdaptiveSelect<T>);
  kernels.Register(kTopKSelect, dtype, RunTopKSelect<T>);
  kernels.Register(kSelectedWeight, dtype, RunSelectedWeight<T>);
  kernels.Register(kSelectedWeightGrad, dtype, RunSelectedWeightGrad<T>);
  kernels.Register(kCoarseDistill, dtype, RunCoarseDistill<T>);
  kernels.Register(kCoarseDistillGrad, dtype, RunCoarseDistillGrad<T>);
  kernels.Register(kExpectedCost, dtype, RunExpectedCost<T>);
  kernels.Register(kExpectedCostGrad, dtype, RunExpectedCostGrad<T>);
  kernels.Register(kLoadBias, dtype, RunLoadBias<T>);
}

}  // namespace

void RegisterGateKernels(KernelRegistry& kernels) {
  RegisterFor<float>(kernels);
  RegisterFor<double>(kernels);
}

}  // namespace strata
