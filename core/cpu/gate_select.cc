#include "core/cpu/gate_select.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "absl/status/status.h"
#include "core/cpu/row_chunks.h"
#include "core/ops/gate_select.h"
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
  const uint8_t* const mask = ctx.has(1) ? ctx.in(1).as<uint8_t>() : nullptr;
  const T* const bias = ctx.has(2) ? ctx.in(2).as<T>() : nullptr;
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
      if (mask != nullptr && mask[i * experts + e] == 0) continue;
      sum += row[e];
      largest = std::max<double>(largest, row[e]);
      best.Offer(SortKey(row[e] + (bias != nullptr ? bias[e] : T{0})),
                 static_cast<int32_t>(e));
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
  const int64_t counted =
      std::min<int64_t>(ctx.attrs().Int("group_max") != 0 ? 1 : 2, width);
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
        Best two(list + k + top_groups, counted);
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

// Each expert marks the tokens that it takes, then each token lists the experts
// that took it.
template <typename T>
absl::Status RunExpertChoice(const KernelContext& ctx) {
  const int64_t t = ctx.in(0).dim(0);
  const int64_t experts = ctx.in(0).dim(1);
  const int64_t k = ctx.attrs().Int("k");
  const int64_t capacity = (t * k + experts - 1) / experts;
  const T* const score = ctx.in(0).as<T>();
  int32_t* const out = ctx.out(0).as<int32_t>();
  auto* const taken = ctx.scratch.Take<uint8_t>(t * experts);
  const int64_t list_size = std::max(t, experts);
  auto* const scratch =
      ctx.scratch.Take<Candidate>(ctx.pool.num_threads() * list_size);

  ctx.pool.ParallelFor(experts, [&](int64_t e, int worker) {
    Candidate* const list = scratch + worker * list_size;
    for (int64_t i = 0; i < t; ++i) {
      list[i] = {SortKey(score[i * experts + e]), static_cast<int32_t>(i)};
      taken[i * experts + e] = 0;
    }
    std::nth_element(list, list + std::max<int64_t>(capacity, 1) - 1, list + t,
                     Better);
    for (int64_t j = 0; j < capacity; ++j) {
      taken[list[j].index * experts + e] = 1;
    }
  });
  ForEachRow(ctx.pool, t, experts, [&](int64_t i, int worker) {
    Best best(scratch + worker * list_size, experts);
    for (int64_t e = 0; e < experts; ++e) {
      if (taken[i * experts + e] == 0) continue;
      best.Offer(SortKey(score[i * experts + e]), static_cast<int32_t>(e));
    }
    int32_t* const row = out + i * experts;
    std::fill_n(row, experts, -1);
    for (int64_t j = 0; j < best.size(); ++j) row[j] = best[j].index;
  });
  return absl::OkStatus();
}

template <typename T>
void RegisterFor(KernelRegistry& kernels) {
  const DType dtype = DTypeOf<T>();
  kernels.Register(kCoarseFilter, dtype, RunCoarseFilter<T>);
  kernels.Register(kAdaptiveSelect, dtype, RunAdaptiveSelect<T>);
  kernels.Register(kTopKSelect, dtype, RunTopKSelect<T>);
  kernels.Register(kExpertChoice, dtype, RunExpertChoice<T>);
}

}  // namespace

void RegisterGateSelectKernels(KernelRegistry& kernels) {
  RegisterFor<float>(kernels);
  RegisterFor<double>(kernels);
}

}  // namespace strata
