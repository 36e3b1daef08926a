// Rows of gates: choosing the best scores, weighing what was chosen. Shared by
// the kernels that do one of these and those that do all of a gate at once, so
// that both choose and round alike.

#ifndef CORE_CPU_GATE_ROWS_H_
#define CORE_CPU_GATE_ROWS_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "core/cpu/vector_math.h"
#include "core/graph/attrs.h"
#include "core/runtime/scratch.h"

namespace strata {

// A score and its index as one integer, so that the better candidate is the
// larger one: of equal scores that of the lower index. -0 and 0 are equals, NaN
// is below all else: sorting is defined for whatever a diverged model may
// produce.
template <typename T>
struct Rank;

template <>
struct Rank<float> {
  using Bits = int32_t;
  using Candidate = int64_t;
};
template <>
struct Rank<double> {
  using Bits = int64_t;
  using Candidate = __int128;
};
template <typename T>
using Candidate = typename Rank<T>::Candidate;

template <typename T>
Candidate<T> MakeCandidate(T score, int64_t index) {
  using Bits = typename Rank<T>::Bits;
  score += T{0};  // -0 becomes 0.
  Bits key;
  std::memcpy(&key, &score, sizeof(key));
  if (key < 0) key ^= std::numeric_limits<Bits>::max();
  if (std::isnan(score)) key = std::numeric_limits<Bits>::min();
  return static_cast<Candidate<T>>(key) * (Candidate<T>{1} << 32) +
         (std::numeric_limits<int32_t>::max() - index);
}

template <typename T>
int32_t IndexOf(T candidate) {
  return std::numeric_limits<int32_t>::max() -
         static_cast<int32_t>(static_cast<uint32_t>(candidate));
}

// The best of a row, best first. `k` is small, so insertion into a sorted list
// beats sorting the row.
template <typename T>
class Best {
 public:
  Best(Candidate<T>* list, int64_t k) : list_(list), k_(k) {}

  void Offer(T score, int64_t index) { Offer(MakeCandidate(score, index)); }
  void Offer(Candidate<T> candidate) {
    if (size_ == k_ && candidate <= list_[k_ - 1]) return;
    int64_t at = size_ < k_ ? size_++ : k_ - 1;
    for (; at > 0 && list_[at - 1] < candidate; --at) list_[at] = list_[at - 1];
    list_[at] = candidate;
  }
  int64_t size() const { return size_; }
  int32_t operator[](int64_t i) const { return IndexOf(list_[i]); }

 private:
  Candidate<T>* list_;
  int64_t k_;
  int64_t size_ = 0;
};

// TopKSelect of a row (core/ops/gate_select.h).
template <typename T>
struct TopKRow {
  int64_t experts, k, num_groups, top_groups, width, counted;

  TopKRow(const Attrs& attrs, int64_t num_experts)
      : experts(num_experts),
        k(attrs.Int("k")),
        num_groups(attrs.Int("num_groups")),
        top_groups(attrs.Int("top_groups")),
        width(experts / num_groups),
        counted(std::min<int64_t>(attrs.Int("group_max") != 0 ? 1 : 2, width)) {
  }

  // Of each worker: the biased row; lists of the experts chosen, of the groups
  // chosen and of a group's best two; whether each group is looked at.
  struct RowScratch {
    T* biased;
    Candidate<T>* lists;
    uint8_t* open;
  };
  RowScratch TakeScratch(int num_workers, Scratch& scratch) const {
    return {scratch.Take<T>(num_workers * experts),
            scratch.Take<Candidate<T>>(num_workers * list_size()),
            scratch.Take<uint8_t>(num_workers * num_groups)};
  }

  // score, bias (or null) [experts] -> out [k]
  void Select(const T* score, const T* bias, const RowScratch& scratch,
              int worker, int32_t* out) const {
    T* const biased = scratch.biased + worker * experts;
    Candidate<T>* const list = scratch.lists + worker * list_size();
    uint8_t* const open = scratch.open + worker * num_groups;
    for (int64_t e = 0; e < experts; ++e) {
      biased[e] = score[e] + (bias != nullptr ? bias[e] : T{0});
    }
    std::fill_n(open, num_groups, uint8_t{top_groups == num_groups});
    if (top_groups < num_groups) {
      Best<T> groups(list + k, top_groups);
      for (int64_t g = 0; g < num_groups; ++g) {
        const T* const of_group = biased + g * width;
        Best<T> two(list + k + top_groups, counted);
        for (int64_t e = 0; e < width; ++e) two.Offer(of_group[e], e);
        T sum = of_group[two[0]];
        if (two.size() > 1) sum += of_group[two[1]];
        groups.Offer(sum, g);
      }
      for (int64_t j = 0; j < top_groups; ++j) open[groups[j]] = 1;
    }
    Best<T> best(list, k);
    for (int64_t g = 0; g < num_groups; ++g) {
      if (open[g] == 0) continue;
      for (int64_t e = g * width; e < (g + 1) * width; ++e) {
        best.Offer(biased[e], e);
      }
    }
    for (int64_t j = 0; j < k; ++j) out[j] = best[j];
  }

 private:
  int64_t list_size() const { return k + top_groups + 2; }
};

// AdaptiveSelect of a row (core/ops/gate_select.h).
template <typename T>
struct AdaptiveRow {
  int64_t experts, k_min, k_max;
  double tau, exit_threshold;

  AdaptiveRow(const Attrs& attrs, int64_t num_experts, double share)
      : experts(num_experts),
        k_min(attrs.Int("k_min")),
        k_max(attrs.Int("k_max")),
        tau(share),
        exit_threshold(attrs.Float("exit_threshold")) {}

  // Of scratch: the survivors, and the best of them.
  int64_t list_size() const { return experts + k_max; }

  // p [experts], mask, bias [experts] or null -> expert [k_max]; whether the
  // token stays.
  bool Select(const T* p, const uint8_t* mask, const T* bias,
              Candidate<T>* survivor, int32_t* expert) const {
    // Without a branch, which the processor could not foresee.
    int64_t num_survivors = 0;
    for (int64_t e = 0; e < experts; ++e) {
      survivor[num_survivors] = e;
      num_survivors += mask == nullptr || mask[e] != 0;
    }
    double sum = 0;
    double largest = -std::numeric_limits<double>::infinity();
    for (int64_t j = 0; j < num_survivors; ++j) {
      const double p_j = p[static_cast<int64_t>(survivor[j])];
      sum += p_j;
      largest = std::max(largest, p_j);
    }
    std::fill_n(expert, k_max, -1);
    if (num_survivors == 0 || largest < exit_threshold) return false;
    const int64_t num_best = std::min(num_survivors, k_max);
    if (num_survivors <= VectorMath<T>::kMaxRanked) {
      OrderByRanks(p, bias, survivor, num_survivors, num_best, expert);
    } else {
      OrderByInsertion(p, bias, survivor, num_survivors, expert);
    }
    double taken = 0;
    for (int64_t j = 0; j < num_best; ++j) {
      if (j >= k_min && taken >= tau * sum) {
        std::fill(expert + j, expert + num_best, -1);
        break;
      }
      taken += p[expert[j]];
    }
    return true;
  }

 private:
  // The best of p + bias, best first, to expert [num_best].
  static void OrderByRanks(const T* p, const T* bias,
                           const Candidate<T>* survivor, int64_t n,
                           int64_t num_best, int32_t* expert) {
    constexpr int64_t kMax = VectorMath<T>::kMaxRanked;
    T score[kMax];
    typename VectorMath<T>::Int rank[kMax];
    int32_t order[kMax];
    for (int64_t j = 0; j < n; ++j) {
      const auto e = static_cast<int64_t>(survivor[j]);
      score[j] = p[e] + (bias != nullptr ? bias[e] : T{0});
    }
    VectorMath<T>::Get().ranks(score, n, rank);
    for (int64_t j = 0; j < n; ++j) {
      order[rank[j]] = static_cast<int32_t>(survivor[j]);
    }
    std::copy_n(order, num_best, expert);
  }

  void OrderByInsertion(const T* p, const T* bias, Candidate<T>* survivor,
                        int64_t n, int32_t* expert) const {
    Best<T> best(survivor + experts, k_max);
    for (int64_t j = 0; j < n; ++j) {
      const auto e = static_cast<int64_t>(survivor[j]);
      best.Offer(p[e] + (bias != nullptr ? bias[e] : T{0}), e);
    }
    for (int64_t j = 0; j < best.size(); ++j) expert[j] = best[j];
  }
};

// x where mask is not 0, else -infinity: without a branch, for half of a row is
// masked and no processor foresees which. y may be x.
template <typename T>
void KeepMasked(const T* x, const uint8_t* mask, int64_t n, T* y) {
  using Int = typename VectorMath<T>::Int;
  constexpr T kLowest = -std::numeric_limits<T>::infinity();
  Int lowest;
  std::memcpy(&lowest, &kLowest, sizeof(lowest));
  for (int64_t j = 0; j < n; ++j) {
    Int bits;
    std::memcpy(&bits, x + j, sizeof(bits));
    const Int all = -static_cast<Int>(mask[j] != 0);
    bits = (bits & all) | (lowest & ~all);
    std::memcpy(y + j, &bits, sizeof(bits));
  }
}

// EnergySignature of a row (core/ops/gate.h): x [groups * width] -> s [groups].
template <typename T>
void SignatureRow(const T* x, int64_t groups, int64_t width, T* s) {
  const VectorMath<T>& vec = VectorMath<T>::Get();
  if (width == 1) {
    vec.product(T{1}, x, x, groups, s);
  } else {
    for (int64_t g = 0; g < groups; ++g) {
      s[g] = vec.sum_of_squares(x + g * width, width);
    }
  }
  const T sum = vec.sum(s, groups);
  if (sum > 0) {
    vec.root_share(s, sum, std::sqrt(T{2} * width), groups, s);
  } else {
    std::fill_n(s, groups, T{0});
  }
}

// What SelectedWeight adds to a row's sum before it divides by it.
inline constexpr double kSumFloor = 1e-20;

// What a row's chosen p are divided by, and whether it moves with them.
template <typename T>
struct Divisor {
  T value = 1;
  bool is_sum = false;
};

// How the attributes say that a row is divided.
template <typename T>
class Normalizer {
 public:
  explicit Normalizer(const Attrs& attrs)
      : normalize_(attrs.Int("normalize") != 0),
        floor_(static_cast<T>(attrs.Float("floor"))) {}

  // `scratch` [k]. The p are added up from the largest on, so that the sum, and
  // with it each weight, depends on who was chosen, not on the order, which a
  // bias may change. They come nearly in that order: insertion is cheap.
  Divisor<T> Of(const T* p, const int32_t* expert, int64_t k,
                T* scratch) const {
    if (!normalize_) return {};
    int64_t n = 0;
    for (int64_t j = 0; j < k; ++j) {
      if (expert[j] < 0) continue;
      const T x = p[expert[j]];
      int64_t at = n++;
      for (; at > 0 && scratch[at - 1] < x; --at) scratch[at] = scratch[at - 1];
      scratch[at] = x;
    }
    T sum = static_cast<T>(kSumFloor);
    for (int64_t j = 0; j < n; ++j) sum += scratch[j];
    return sum >= floor_ ? Divisor<T>{sum, true} : Divisor<T>{floor_, false};
  }

  // weight [k] of a row of p; 0 where expert is -1. `scratch` [k].
  void Weigh(T scale, const T* p, const int32_t* expert, int64_t k, T* scratch,
             T* weight) const {
    const T factor = scale / Of(p, expert, k, scratch).value;
    for (int64_t j = 0; j < k; ++j) {
      weight[j] = expert[j] >= 0 ? factor * p[expert[j]] : T{0};
    }
  }

 private:
  bool normalize_;
  T floor_;
};

}  // namespace strata

#endif  // CORE_CPU_GATE_ROWS_H_
