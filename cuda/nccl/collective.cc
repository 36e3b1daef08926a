#include "cuda/nccl/collective.h"

#include <cstdint>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/parallel/communicator.h"
#include "core/tensor/dtype.h"
#include "cuda/nccl/kernel_group.h"
#include "cuda/nccl/peer_table.h"
#include "cuda/nccl/row_exchange.h"
#include "cuda/runtime/kernel.h"
#include "cuda/runtime/status.h"
#include "cuda/runtime/wait_clock.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {
namespace {

// Of SendRows' and ReturnRows' inputs.
constexpr int kOffset = 1;
constexpr int kCount = 2;
// From so many bytes on, up to which a rank has rows, an exchange on a lane
// leaves most of the GPU to what runs beside it. A smaller one is done in 0.2
// ms with all of the GPU, and waits for launches and other ranks rather than
// for room.
constexpr int64_t kManyBytes = 64 << 20;

bool IsBf16(const Operand& x) { return !x.is_integer && x.element_size == 2; }

Payload PayloadOfOperand(const Operand& x) {
  const DType dtype = x.is_integer ? DType::kI32
                      : IsBf16(x)  ? DType::kBF16
                                   : DType::kF32;
  return {x.data, x.max_elements(), dtype};
}

std::vector<Payload> States(const KernelContext& ctx) {
  std::vector<Payload> states;
  for (int i = 0; i < ctx.num_inputs; ++i) {
    states.push_back(PayloadOfOperand(ctx.in(i)));
  }
  return states;
}

absl::Status AllReduce(const KernelContext& ctx) {
  ASSIGN_OR_RETURN(const KernelGroup group, GroupOf(ctx));
  return group.gpus->EnqueueAllReduce(States(ctx), ctx.stream);
}

absl::Status Broadcast(const KernelContext& ctx) {
  ASSIGN_OR_RETURN(const KernelGroup group, GroupOf(ctx));
  return group.gpus->EnqueueBroadcast(
      States(ctx), static_cast<int>(ctx.Int("root")), ctx.stream);
}

absl::Status AllGather(const KernelContext& ctx) {
  ASSIGN_OR_RETURN(const KernelGroup group, GroupOfItsSize(ctx));
  return group.gpus->EnqueueAllGather(PayloadOfOperand(ctx.in(0)),
                                      PayloadOfOperand(ctx.out(0)), ctx.stream);
}

absl::Status ExchangePlan(const KernelContext& ctx) {
  ASSIGN_OR_RETURN(const KernelGroup group, GroupOfItsSize(ctx));
  PlanExchangeArgs args;
  args.experts = static_cast<int>(ctx.out(0).dim(1));
  if (args.experts > kMaxOwnedExperts) {
    return absl::UnimplementedError(absl::StrCat("a rank has ", args.experts,
                                                 " experts of a gate; want ",
                                                 kMaxOwnedExperts, " at most"));
  }
  ASSIGN_OR_RETURN(
      args.peers, PeersOf(ctx, group, args.experts * int64_t{sizeof(int32_t)}));
  args.home_offset = ctx.in(0).as<int32_t>();
  args.count = ctx.out(0).as<int32_t>();
  args.offset = ctx.out(1).as<int32_t>();
  args.rows = ctx.out(2).as<int32_t>();
  return ToStatus(ExchangePlans(args, ctx.stream));
}

// `home` is the operand that lies with the tokens.
absl::StatusOr<RowExchangeArgs> RowsOf(const KernelContext& ctx,
                                       const Operand& home) {
  ASSIGN_OR_RETURN(const KernelGroup group, GroupOfItsSize(ctx));
  RowExchangeArgs args;
  args.experts = static_cast<int>(ctx.in(kCount).dim(1));
  args.columns = home.columns();
  args.from = {ctx.in(0).data, IsBf16(ctx.in(0))};
  args.to = {ctx.out(0).data, IsBf16(ctx.out(0))};
  // Products would round the rows; what comes back is rounded for the way only.
  // Rows that are BF16 at either end lose nothing more by it.
  args.rounded =
      ctx.precision == Precision::kBf16 || args.from.is_bf16 || args.to.is_bf16;
  ASSIGN_OR_RETURN(
      args.peers,
      PeersOf(ctx, group, home.max_elements() * SentBytes(args.rounded)));
  args.home_offset = ctx.in(kOffset).as<int32_t>();
  args.count = ctx.in(kCount).as<int32_t>();
  args.beside = home.max_elements() * SentBytes(args.rounded) >= kManyBytes &&
                ctx.beside != nullptr;
  return args;
}

// Has what is enqueued beside an exchange of rows begin behind it.
absl::Status GiveRoom(const RowExchangeArgs& args, const KernelContext& ctx) {
  if (!args.beside) return absl::OkStatus();
  return ToStatus(AwaitBegun(args.peers, ctx.beside));
}

absl::Status SendRows(const KernelContext& ctx) {
  ASSIGN_OR_RETURN(const RowExchangeArgs args, RowsOf(ctx, ctx.in(0)));
  RETURN_IF_ERROR(ToStatus(SendRowsToOwners(args, ctx.stream)));
  return GiveRoom(args, ctx);
}

absl::Status ReturnRows(const KernelContext& ctx) {
  ASSIGN_OR_RETURN(const RowExchangeArgs args, RowsOf(ctx, ctx.out(0)));
  RETURN_IF_ERROR(ToStatus(ReturnRowsHome(args, ctx.stream)));
  return GiveRoom(args, ctx);
}

// Of NCCL's kernels the moving counts as waiting too.
template <absl::Status (*kEnqueue)(const KernelContext&)>
absl::Status Waits(const KernelContext& ctx) {
  if (ctx.waits == nullptr) return kEnqueue(ctx);
  RETURN_IF_ERROR(ToStatus(BeginWait(ctx.waits, ctx.stream)));
  RETURN_IF_ERROR(kEnqueue(ctx));
  return ToStatus(EndWait(ctx.waits, ctx.stream));
}

}  // namespace

void RegisterCollectiveKernels(KernelRegistry& kernels) {
  kernels.Register("AllReduce", RunEnqueue<Waits<AllReduce>>);
  kernels.Register("Broadcast", RunEnqueue<Waits<Broadcast>>);
  kernels.Register("AllGather", RunEnqueue<Waits<AllGather>>);
  kernels.Register("ExchangePlan", RunEnqueue<ExchangePlan>);
  kernels.Register("SendRows", RunEnqueue<SendRows>);
  kernels.Register("ReturnRows", RunEnqueue<ReturnRows>);
}

}  // namespace strata::gpu
