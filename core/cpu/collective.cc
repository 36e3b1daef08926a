#include "core/cpu/collective.h"

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "core/base/status_macros.h"
#include "core/ops/collective.h"
#include "core/ops/collective_rows.h"
#include "core/parallel/communicator.h"
#include "core/parallel/mesh.h"
#include "core/runtime/kernel.h"
#include "core/runtime/kernel_registry.h"
#include "core/tensor/dtype.h"
#include "core/tensor/tensor.h"

namespace strata {

absl::StatusOr<Communicator*> GroupOf(const KernelContext& ctx) {
  const std::string& name = ctx.attrs().String("group");
  Communicator* const group =
      ctx.mesh == nullptr ? nullptr : ctx.mesh->Find(name);
  if (group == nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat("the backend has no group ", name, " of ranks"));
  }
  if (ctx.attrs().Has("ranks") && ctx.attrs().Int("ranks") != group->size()) {
    return absl::FailedPreconditionError(
        absl::StrCat("the group ", name, " has ", group->size(),
                     " ranks; the graph is for ", ctx.attrs().Int("ranks")));
  }
  return group;
}

namespace {

// Copies the states into one message, exchanges it, and copies it back.
template <typename Exchange>
absl::Status RunBucket(const KernelContext& ctx, const Exchange& exchange) {
  Payload bucket;
  bucket.dtype = ctx.in(0).dtype;
  int64_t num_bytes = 0;
  for (const TensorView& state : ctx.inputs) num_bytes += state.num_bytes();
  bucket.count = num_bytes / SizeOf(bucket.dtype);
  char* const data = ctx.scratch.Take<char>(num_bytes);
  bucket.data = data;
  char* at = data;
  for (const TensorView& state : ctx.inputs) {
    at = std::copy_n(static_cast<const char*>(state.data), state.num_bytes(),
                     at);
  }
  RETURN_IF_ERROR(exchange(bucket));
  at = data;
  for (const TensorView& state : ctx.inputs) {
    std::copy_n(at, state.num_bytes(), static_cast<char*>(state.data));
    at += state.num_bytes();
  }
  return absl::OkStatus();
}

absl::Status RunAllReduce(const KernelContext& ctx) {
  ASSIGN_OR_RETURN(Communicator* const group, GroupOf(ctx));
  return RunBucket(ctx, [&](const Payload& bucket) {
    return group->AllReduce(bucket, ReduceOp::kSum);
  });
}

absl::Status RunBroadcast(const KernelContext& ctx) {
  ASSIGN_OR_RETURN(Communicator* const group, GroupOf(ctx));
  return RunBucket(ctx, [&](const Payload& bucket) {
    return group->Broadcast(bucket, static_cast<int>(ctx.attrs().Int("root")));
  });
}

// A bucket whose states have owners: those of rank 0, of rank 1, ...
struct OwnedBucket {
  absl::Span<const int32_t> owner;   // [states]
  absl::Span<const int64_t> counts;  // [ranks] elements.
  Payload all;
  Payload mine;  // Within it.
};

OwnedBucket OwnedBucketOf(const KernelContext& ctx, const Communicator& group) {
  OwnedBucket x;
  const size_t num_states = ctx.inputs.size();
  auto* const owner = ctx.scratch.Take<int32_t>(num_states);
  auto* const counts = ctx.scratch.Take<int64_t>(group.size());
  std::fill_n(owner, num_states, 0);
  std::fill_n(counts, group.size(), 0);
  size_t state = 0;
  for (const char c : ctx.attrs().String("owner")) {
    if (c == ',') {
      ++state;
    } else {
      owner[state] = 10 * owner[state] + (c - '0');
    }
  }
  for (size_t i = 0; i < num_states; ++i) {
    counts[owner[i]] += ctx.in(i).num_elements();
  }
  x.owner = {owner, num_states};
  x.counts = {counts, static_cast<size_t>(group.size())};
  x.all.dtype = x.mine.dtype = ctx.in(0).dtype;
  x.all.count = std::accumulate(x.counts.begin(), x.counts.end(), int64_t{0});
  char* const data = ctx.scratch.Take<char>(x.all.num_bytes());
  x.all.data = data;
  x.mine.data =
      data + SizeOf(x.all.dtype) *
                 std::accumulate(counts, counts + group.rank(), int64_t{0});
  x.mine.count = counts[group.rank()];
  return x;
}

// Copies each state to its place in the bucket, or the other way about.
void CopyStates(const KernelContext& ctx, const OwnedBucket& x, bool to_bucket,
                int first_rank, int end_rank) {
  char* at = static_cast<char*>(x.all.data);
  for (int r = 0; r < end_rank; ++r) {
    if (r < first_rank) {
      at += x.counts[r] * SizeOf(x.all.dtype);
      continue;
    }
    for (size_t i = 0; i < ctx.inputs.size(); ++i) {
      if (x.owner[i] != r) continue;
      char* const state = static_cast<char*>(ctx.in(i).data);
      const int64_t num_bytes = ctx.in(i).num_bytes();
      std::copy_n(to_bucket ? state : at, num_bytes, to_bucket ? at : state);
      at += num_bytes;
    }
  }
}

absl::Status RunReduceToOwners(const KernelContext& ctx) {
  ASSIGN_OR_RETURN(Communicator* const group, GroupOf(ctx));
  const int rank = group->rank();
  const OwnedBucket x = OwnedBucketOf(ctx, *group);
  CopyStates(ctx, x, /*to_bucket=*/true, 0, group->size());
  Payload sum = x.mine;
  sum.data = ctx.scratch.Take<char>(x.mine.num_bytes());
  RETURN_IF_ERROR(group->ReduceScatter(x.all, x.counts, sum));
  std::copy_n(static_cast<const char*>(sum.data), sum.num_bytes(),
              static_cast<char*>(x.mine.data));
  CopyStates(ctx, x, /*to_bucket=*/false, rank, rank + 1);
  return absl::OkStatus();
}

absl::Status RunGatherFromOwners(const KernelContext& ctx) {
  ASSIGN_OR_RETURN(Communicator* const group, GroupOf(ctx));
  const int rank = group->rank();
  const OwnedBucket x = OwnedBucketOf(ctx, *group);
  CopyStates(ctx, x, /*to_bucket=*/true, rank, rank + 1);
  Payload own = x.mine;
  own.data = ctx.scratch.Take<char>(x.mine.num_bytes());
  std::copy_n(static_cast<const char*>(x.mine.data), own.num_bytes(),
              static_cast<char*>(own.data));
  RETURN_IF_ERROR(group->AllGather(own, x.counts, x.all));
  CopyStates(ctx, x, /*to_bucket=*/false, 0, group->size());
  return absl::OkStatus();
}

Payload PayloadOfTensor(const TensorView& tensor) {
  return {tensor.data, tensor.num_elements(), tensor.dtype};
}

absl::Status RunAllGather(const KernelContext& ctx) {
  ASSIGN_OR_RETURN(Communicator* const group, GroupOf(ctx));
  const int ranks = group->size();
  auto* const counts = ctx.scratch.Take<int64_t>(ranks);
  std::fill_n(counts, ranks, ctx.in(0).num_elements());
  return group->AllGather(PayloadOfTensor(ctx.in(0)), {counts, size_t(ranks)},
                          PayloadOfTensor(ctx.out(0)));
}

// How many rows of each expert this rank has for its owner, to all owners; what
// comes is how many each rank has for this one's.
absl::Status RunExchangePlan(const KernelContext& ctx) {
  ASSIGN_OR_RETURN(Communicator* const group, GroupOf(ctx));
  const int64_t ranks = group->size();
  const int64_t experts = ctx.out(0).dim(1);  // Of this rank.
  const int32_t* const home = ctx.in(0).as<int32_t>();
  auto* const mine = ctx.scratch.Take<int32_t>(ranks * experts);
  for (int64_t e = 0; e < ranks * experts; ++e) mine[e] = home[e + 1] - home[e];
  auto* const each = ctx.scratch.Take<int64_t>(ranks);
  std::fill_n(each, ranks, experts);
  const absl::Span<const int64_t> pieces(each, ranks);
  RETURN_IF_ERROR(group->AllToAll({mine, ranks * experts, DType::kI32}, pieces,
                                  pieces, PayloadOfTensor(ctx.out(0))));
  const int32_t* const count = ctx.out(0).as<int32_t>();
  int32_t* const offset = ctx.out(1).as<int32_t>();
  offset[0] = 0;
  for (int64_t e = 0; e < experts; ++e) {
    offset[e + 1] = offset[e];
    for (int64_t r = 0; r < ranks; ++r) offset[e + 1] += count[r * experts + e];
  }
  *ctx.out(2).as<int32_t>() = offset[experts];
  return absl::OkStatus();
}

// What SendRows and ReturnRows know of an exchange of rows of `columns`.
struct Exchange {
  int64_t ranks = 0;
  int64_t experts = 0;              // Of a rank.
  int64_t rows = 0;                 // That are here to be processed.
  absl::Span<const int64_t> home;   // [ranks] elements for each owner,
  absl::Span<const int64_t> owner;  // [ranks] and from each sender.
  const int32_t* count = nullptr;   // [ranks, experts]
  // [ranks, experts], where a sender's rows of an expert begin: in the order
  // of arrival, and by expert.
  const int64_t* arrived = nullptr;
  const int64_t* grouped = nullptr;
};

Exchange ExchangeOf(const KernelContext& ctx, int64_t columns) {
  Exchange x;
  x.ranks = ctx.in(2).dim(0);
  x.experts = ctx.in(2).dim(1);
  x.count = ctx.in(2).as<int32_t>();
  const int32_t* const offset = ctx.in(1).as<int32_t>();
  auto* const home = ctx.scratch.Take<int64_t>(x.ranks);
  auto* const owner = ctx.scratch.Take<int64_t>(x.ranks);
  auto* const arrived = ctx.scratch.Take<int64_t>(x.ranks * x.experts);
  auto* const grouped = ctx.scratch.Take<int64_t>(x.ranks * x.experts);
  for (int64_t r = 0; r < x.ranks; ++r) {
    home[r] = (offset[(r + 1) * x.experts] - offset[r * x.experts]) * columns;
    const int64_t before = x.rows;
    for (int64_t e = 0; e < x.experts; ++e) {
      arrived[r * x.experts + e] = x.rows;
      x.rows += x.count[r * x.experts + e];
    }
    owner[r] = (x.rows - before) * columns;
  }
  int64_t row = 0;
  for (int64_t e = 0; e < x.experts; ++e) {
    for (int64_t r = 0; r < x.ranks; ++r) {
      grouped[r * x.experts + e] = row;
      row += x.count[r * x.experts + e];
    }
  }
  x.home = {home, size_t(x.ranks)};
  x.owner = {owner, size_t(x.ranks)};
  x.arrived = arrived;
  x.grouped = grouped;
  return x;
}

// Copies each sender's rows of each expert from where `from_row` says in `from`
// to where `to_row` says in `to`.
template <typename T>
void Regroup(const KernelContext& ctx, const Exchange& x, int64_t columns,
             const T* from, const int64_t* from_row, T* to,
             const int64_t* to_row) {
  ctx.pool.ParallelFor(x.ranks * x.experts, [&](int64_t i) {
    std::copy_n(from + from_row[i] * columns, x.count[i] * columns,
                to + to_row[i] * columns);
  });
}

template <typename T>
absl::Status RunSendRows(const KernelContext& ctx) {
  ASSIGN_OR_RETURN(Communicator* const group, GroupOf(ctx));
  const int64_t columns = ctx.in(0).dim(1);
  const Exchange x = ExchangeOf(ctx, columns);
  auto* const buffer = ctx.scratch.Take<T>(x.rows * columns);
  RETURN_IF_ERROR(group->AllToAll(PayloadOfTensor(ctx.in(0)), x.home, x.owner,
                                  {buffer, x.rows * columns, DTypeOf<T>()}));
  Regroup(ctx, x, columns, buffer, x.arrived, ctx.out(0).as<T>(), x.grouped);
  return absl::OkStatus();
}

template <typename T>
absl::Status RunReturnRows(const KernelContext& ctx) {
  ASSIGN_OR_RETURN(Communicator* const group, GroupOf(ctx));
  const int64_t columns = ctx.in(0).dim(1);
  const Exchange x = ExchangeOf(ctx, columns);
  auto* const buffer = ctx.scratch.Take<T>(x.rows * columns);
  Regroup(ctx, x, columns, ctx.in(0).as<T>(), x.grouped, buffer, x.arrived);
  return group->AllToAll({buffer, x.rows * columns, DTypeOf<T>()}, x.owner,
                         x.home, PayloadOfTensor(ctx.out(0)));
}

template <typename T>
void RegisterFor(KernelRegistry& kernels) {
  kernels.Register(kAllGather, DTypeOf<T>(), RunAllGather);
  kernels.Register(kSendRows, DTypeOf<T>(), RunSendRows<T>);
  kernels.Register(kReturnRows, DTypeOf<T>(), RunReturnRows<T>);
}

}  // namespace

void RegisterCollectiveKernels(KernelRegistry& kernels) {
  for (const DType dtype : {DType::kF32, DType::kF64, DType::kI32}) {
    kernels.Register(kAllReduce, dtype, RunAllReduce);
    kernels.Register(kBroadcast, dtype, RunBroadcast);
    kernels.Register(kReduceToOwners, dtype, RunReduceToOwners);
    kernels.Register(kGatherFromOwners, dtype, RunGatherFromOwners);
  }
  kernels.AllowBeside(kAllReduce);
  kernels.AllowBeside(kReduceToOwners);
  kernels.AllowBeside(kSendRows);
  kernels.AllowBeside(kReturnRows);
  kernels.Register(kExchangePlan, DType::kI32, RunExchangePlan);
  RegisterFor<float>(kernels);
  RegisterFor<double>(kernels);
}

}  // namespace strata
