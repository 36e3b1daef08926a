#include "core/cpu/placement/expert_placement.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "core/base/status_macros.h"
#include "core/cpu/collective.h"
#include "core/cpu/vector_math.h"
#include "core/ops/expert_placement.h"
#include "core/parallel/communicator.h"
#include "core/runtime/kernel.h"
#include "core/runtime/kernel_registry.h"
#include "core/tensor/dtype.h"
#include "core/tensor/tensor.h"

namespace strata {
namespace {

// The copies of each expert: of the slots that hold it on a rank the first.
struct Copies {
  int64_t experts = 0;
  int64_t ranks = 0;
  int64_t own = 0;                  // Slots of a rank.
  const int32_t* table = nullptr;   // [slots] -> expert
  const int32_t* slot = nullptr;    // [experts, ranks], in the order of ranks
  const int32_t* number = nullptr;  // [experts], how many of those there are

  const int32_t* of(int64_t e) const { return slot + e * ranks; }
};

absl::StatusOr<Copies> CopiesOf(const KernelContext& ctx,
                                const TensorView& table) {
  Copies copies;
  copies.experts = ctx.attrs().Int("experts");
  copies.ranks = ctx.attrs().Int("ranks");
  copies.own = table.num_elements() / copies.ranks;
  copies.table = table.as<int32_t>();
  auto* const slot = ctx.scratch.Take<int32_t>(copies.experts * copies.ranks);
  auto* const number = ctx.scratch.Take<int32_t>(copies.experts);
  std::fill_n(number, copies.experts, 0);
  for (int64_t s = 0; s < table.num_elements(); ++s) {
    const int32_t e = copies.table[s];
    if (e < 0 || e >= copies.experts) {
      return absl::InvalidArgumentError(
          absl::StrCat("slot ", s, " of the table holds expert ", e,
                       "; want 0 to ", copies.experts - 1));
    }
    int32_t* const of_expert = slot + e * copies.ranks;
    if (number[e] > 0 &&
        of_expert[number[e] - 1] / copies.own == s / copies.own) {
      continue;
    }
    of_expert[number[e]++] = static_cast<int32_t>(s);
  }
  copies.slot = slot;
  copies.number = number;
  return copies;
}

absl::Status RunPlaceChoices(const KernelContext& ctx) {
  ASSIGN_OR_RETURN(const Copies copies, CopiesOf(ctx, ctx.in(1)));
  const int64_t k = ctx.in(0).dim(1);
  const int32_t* const expert = ctx.in(0).as<int32_t>();
  int32_t* const slot = ctx.out(0).as<int32_t>();
  // Serial: an integer a choice, next to rows of hundreds of floats elsewhere.
  for (int64_t i = 0; i < ctx.in(0).num_elements(); ++i) {
    const int32_t e = expert[i];
    if (e == -1) {
      slot[i] = -1;
    } else if (e < 0 || e >= copies.experts || copies.number[e] == 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("choice ", i, " is expert ", e, "; want one of the ",
                       copies.experts, " that has a slot, or -1"));
    } else {
      slot[i] = copies.of(e)[i / k % copies.number[e]];
    }
  }
  return absl::OkStatus();
}

// Calls fn(expert, mine, other) for each expert of which both this rank and
// rank `r` have a copy; these are the slots.
template <typename Fn>
void ForShared(const Copies& copies, int64_t rank, int64_t r, Fn fn) {
  for (int64_t e = 0; e < copies.experts; ++e) {
    int64_t mine = -1, other = -1;
    for (int32_t c = 0; c < copies.number[e]; ++c) {
      const int64_t slot = copies.of(e)[c];
      if (slot / copies.own == rank) mine = slot;
      if (slot / copies.own == r) other = slot;
    }
    if (r != rank && mine >= 0 && other >= 0) fn(e, mine, other);
  }
}

// Each rank that has a copy gets the gradients of all others, and adds them up.
template <typename T>
absl::Status RunSumCopies(const KernelContext& ctx) {
  ASSIGN_OR_RETURN(Communicator* const group, GroupOf(ctx));
  ASSIGN_OR_RETURN(const Copies copies, CopiesOf(ctx, ctx.in(0)));
  const int64_t rank = group->rank();
  const auto grads = ctx.inputs.subspan(1);
  int64_t width = 0;  // Elements of a slot.
  for (const TensorView& grad : grads) {
    width += grad.num_elements() / copies.own;
  }
  auto* const pieces = ctx.scratch.Take<int64_t>(copies.ranks);
  int64_t count = 0;
  for (int64_t r = 0; r < copies.ranks; ++r) {
    pieces[r] = 0;
    ForShared(copies, rank, r,
              [&](int64_t, int64_t, int64_t) { pieces[r] += width; });
    count += pieces[r];
  }
  // Every rank calls, with copies or without.
  T* const sent = ctx.scratch.Take<T>(count);
  T* const received = ctx.scratch.Take<T>(count);
  T* const sum = ctx.scratch.Take<T>(width);
  const auto gather = [&](int64_t slot, T* to) {
    for (const TensorView& grad : grads) {
      const int64_t n = grad.num_elements() / copies.own;
      to = std::copy_n(grad.as<T>() + slot % copies.own * n, n, to);
    }
    return to;
  };
  T* to = sent;
  for (int64_t r = 0; r < copies.ranks; ++r) {
    ForShared(copies, rank, r,
              [&](int64_t, int64_t mine, int64_t) { to = gather(mine, to); });
  }
  const absl::Span<const int64_t> counts(pieces, copies.ranks);
  RETURN_IF_ERROR(group->AllToAll({sent, count, DTypeOf<T>()}, counts, counts,
                                  {received, count, DTypeOf<T>()}));
  // Where the next of each sender is.
  auto* const next = ctx.scratch.Take<int64_t>(copies.ranks);
  int64_t begin = 0;
  for (int64_t r = 0; r < copies.ranks; ++r) {
    next[r] = begin;
    begin += pieces[r];
  }
  const VectorMath<T>& vec = VectorMath<T>::Get();
  for (int64_t e = 0; e < copies.experts; ++e) {
    const int32_t* const slots = copies.of(e);
    const int32_t* const end = slots + copies.number[e];
    const bool is_here = std::any_of(
        slots, end, [&](int32_t slot) { return slot / copies.own == rank; });
    const int32_t* const here = copies.table + rank * copies.own;
    const bool is_alone =
        copies.number[e] == 1 && std::count(here, here + copies.own, e) == 1;
    if (!is_here || is_alone) continue;
    std::fill_n(sum, width, T{0});
    for (const int32_t* slot = slots; slot != end; ++slot) {
      const int64_t r = *slot / copies.own;
      // What this rank sent, to add it up as the others do.
      if (r == rank) {
        T* at = sum;
        for (const TensorView& grad : grads) {
          const int64_t n = grad.num_elements() / copies.own;
          vec.add(at, grad.as<T>() + *slot % copies.own * n, n, at);
          at += n;
        }
      } else {
        vec.add(sum, received + next[r], width, sum);
        next[r] += width;
      }
    }
    for (int64_t s = rank * copies.own; s < (rank + 1) * copies.own; ++s) {
      if (copies.table[s] != e) continue;
      const T* from = sum;
      for (const TensorView& grad : grads) {
        const int64_t n = grad.num_elements() / copies.own;
        std::copy_n(from, n, grad.as<T>() + s % copies.own * n);
        from += n;
      }
    }
  }
  return absl::OkStatus();
}

template <typename T>
absl::Status RunExpertNorm(const KernelContext& ctx) {
  ASSIGN_OR_RETURN(Communicator* const group, GroupOf(ctx));
  ASSIGN_OR_RETURN(const Copies copies, CopiesOf(ctx, ctx.in(1)));
  const VectorMath<T>& vec = VectorMath<T>::Get();
  const auto grads = ctx.inputs.subspan(2);
  const int64_t slots = copies.own * copies.ranks;
  auto* const mine = ctx.scratch.Take<double>(copies.own);
  auto* const all = ctx.scratch.Take<double>(slots);
  auto* const counts = ctx.scratch.Take<int64_t>(copies.ranks);
  std::fill_n(counts, copies.ranks, copies.own);
  ctx.pool.ParallelFor(copies.own, [&](int64_t s) {
    mine[s] = 0;
    for (const TensorView& grad : grads) {
      const int64_t n = grad.num_elements() / copies.own;
      mine[s] += vec.sum_of_squares_in_double(grad.as<T>() + s * n, n);
    }
  });
  RETURN_IF_ERROR(group->AllGather({mine, copies.own, DType::kF64},
                                   {counts, size_t(copies.ranks)},
                                   {all, slots, DType::kF64}));
  double sum = 0;
  for (int64_t e = 0; e < copies.experts; ++e) {
    if (copies.number[e] > 0) sum += all[copies.of(e)[0]];
  }
  *ctx.out(0).as<T>() =
      static_cast<T>(std::sqrt(sum) / static_cast<double>(*ctx.in(0).as<T>()));
  return absl::OkStatus();
}

template <typename T>
void RegisterFor(KernelRegistry& kernels) {
  kernels.Register(kSumCopies, DTypeOf<T>(), RunSumCopies<T>);
  kernels.Register(kExpertNorm, DTypeOf<T>(), RunExpertNorm<T>);
}

}  // namespace

void RegisterExpertPlacementKernels(KernelRegistry& kernels) {
  kernels.Register(kPlaceChoices, DType::kI32, RunPlaceChoices);
  RegisterFor<float>(kernels);
  RegisterFor<double>(kernels);
}

}  // namespace strata
