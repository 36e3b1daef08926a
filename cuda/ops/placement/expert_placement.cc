#include "cuda/ops/placement/expert_placement.h"

#include <algorithm>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/base/status_macros.h"
#include "cuda/nccl/kernel_group.h"
#include "cuda/ops/placement/slot_copies.h"
#include "cuda/runtime/kernel.h"
#include "cuda/runtime/status.h"

namespace strata::gpu {
namespace {

absl::Status NoScratch() { return ToStatus(cudaErrorMemoryAllocation); }

// The map of the table that input number `input` is, made.
absl::StatusOr<SlotMap> MapOf(const KernelContext& ctx, int input,
                              bool want_all) {
  SlotMap map;
  map.experts = static_cast<int>(ctx.Int("experts"));
  map.ranks = static_cast<int>(ctx.Int("ranks"));
  map.slots = static_cast<int>(ctx.in(input).dim(0));
  map.own = map.slots / map.ranks;
  map.table = ctx.in(input).as<int32_t>();
  map.copy = ctx.Take<int32_t>(int64_t{map.experts} * map.ranks);
  map.number = ctx.Take<int32_t>(map.experts);
  if (map.copy == nullptr || map.number == nullptr) return NoScratch();
  map.fault = ctx.fault;
  RETURN_IF_ERROR(ToStatus(MapSlots(map, want_all, ctx.stream)));
  return map;
}

// The gradients from input `first` on.
absl::StatusOr<SlotGrads> GradsFrom(const KernelContext& ctx, int first) {
  SlotGrads grads;
  grads.count = ctx.num_inputs - first;
  if (grads.count > kMaxSlotGrads) {
    return absl::UnimplementedError("more than 64 gradients");
  }
  for (int g = 0; g < grads.count; ++g) {
    const Operand& grad = ctx.in(first + g);
    if (grad.element_size != 4) {
      return absl::UnimplementedError("gradients of experts that move are F32");
    }
    grads.data[g] = grad.as<float>();
    grads.size[g] = grad.columns();
    grads.width += grads.size[g];
  }
  return grads;
}

absl::Status PlaceChoices(const KernelContext& ctx) {
  PlaceChoicesArgs args;
  ASSIGN_OR_RETURN(args.map, MapOf(ctx, /*input=*/1, /*want_all=*/false));
  args.tokens = ctx.in(0).rows();
  args.k = static_cast<int>(ctx.in(0).dim(1));
  args.expert = ctx.in(0).as<int32_t>();
  args.slot = ctx.out(0).as<int32_t>();
  return ToStatus(PlaceInSlots(args, ctx.stream));
}

absl::Status SumCopies(const KernelContext& ctx) {
  ASSIGN_OR_RETURN(const KernelGroup group, GroupOfItsSize(ctx));
  SumCopiesArgs args;
  ASSIGN_OR_RETURN(args.map, MapOf(ctx, /*input=*/0, /*want_all=*/true));
  ASSIGN_OR_RETURN(args.grads, GradsFrom(ctx, /*first=*/1));
  // Where every expert has a slot and there are no more, none is shared.
  args.max_shared = std::min(args.map.own, args.map.slots - args.map.experts);
  if (args.max_shared == 0) return absl::OkStatus();
  ASSIGN_OR_RETURN(args.peers, PeersOf(ctx, group,
                                       args.max_shared * args.grads.width *
                                           int64_t{sizeof(float)}));
  args.shared = ctx.Take<int32_t>(int64_t{args.map.ranks} * args.max_shared);
  args.num_shared = ctx.Take<int32_t>(args.map.ranks);
  args.place = ctx.Take<int32_t>(int64_t{args.map.experts} * args.map.ranks);
  if (args.shared == nullptr || args.num_shared == nullptr ||
      args.place == nullptr) {
    return NoScratch();
  }
  return ToStatus(SumOverCopies(args, ctx.stream));
}

absl::Status ExpertNorm(const KernelContext& ctx) {
  ASSIGN_OR_RETURN(const KernelGroup group, GroupOfItsSize(ctx));
  ExpertNormArgs args;
  ASSIGN_OR_RETURN(args.map, MapOf(ctx, /*input=*/1, /*want_all=*/false));
  ASSIGN_OR_RETURN(args.grads, GradsFrom(ctx, /*first=*/2));
  ASSIGN_OR_RETURN(args.peers,
                   PeersOf(ctx, group, args.map.own * int64_t{sizeof(double)}));
  args.pieces = ExpertNormPieces(args.grads);
  args.partial =
      ctx.Take<double>(int64_t{args.map.own} * args.grads.count * args.pieces);
  if (args.partial == nullptr) return NoScratch();
  args.divisor = ctx.in(0).as<float>();
  args.norm = ctx.out(0).as<float>();
  return ToStatus(NormOfExperts(args, ctx.stream));
}

}  // namespace

void RegisterExpertPlacementKernels(KernelRegistry& kernels) {
  kernels.Register("PlaceChoices", RunEnqueue<PlaceChoices>);
  kernels.Register("SumCopies", RunEnqueue<SumCopies>);
  kernels.Register("ExpertNorm", RunEnqueue<ExpertNorm>);
}

}  // namespace strata::gpu
