#include <cstdint>

#include "cuda/ops/activation.h"
#include "cuda/ops/batch/batch_linear.h"
#include "cuda/ops/batch/batch_rows.h"
#include "cuda/ops/batch/expert_products.h"
#include "cuda/ops/batch/gate_routes.h"
#include "cuda/ops/batch/route_rows.h"
#include "cuda/ops/decode/choose_experts.h"
#include "cuda/ops/decode/few_experts.h"
#include "cuda/ops/decode/few_rows.h"
#include "cuda/ops/decode/routed_experts.h"
#include "cuda/ops/decode/weight_rows.h"
#include "cuda/ops/dispatch_plan.h"
#include "cuda/ops/elementwise.h"
#include "cuda/ops/expert_layer.h"
#include "cuda/ops/fused_experts.h"
#include "cuda/ops/gate.h"
#include "cuda/ops/gate_select.h"
#include "cuda/ops/linear_part.h"
#include "cuda/ops/norm.h"
#include "cuda/ops/sub_kernel.h"
#include "cuda/runtime/kernel.h"
#include "cuda_bf16.h"

namespace strata::gpu {
namespace {

// --- RoutedExperts ---

// Inputs and outputs: core/ops/fused_experts.h.
enum RoutedInput {
  kH,
  kGain,
  kGate,
  kBias,
  kGateUp,
  kDown,
  kSharedUp,
  kSharedDown
};
enum RoutedOutput { kY, kOffset, kRows, kX, kHidden, kShared };

// Few tokens under bf16: the gate with the first half of the shared expert,
// then the experts, in one launch or two, with their choice and the rest of the
// shared one. Packed experts of more slots go as a batch's.
ChooseExpertsArgs ChoiceOf(const KernelContext& ctx) {
  ChooseExpertsArgs a;
  a.tokens = ctx.in(kH).rows();
  a.num_experts = static_cast<int>(ctx.in(kGate).dim(0));
  a.k = static_cast<int>(ctx.Int("k"));
  a.softmax = ctx.Int("softmax") != 0;
  a.normalize = ctx.Int("normalize") != 0;
  a.floor = ctx.Float("floor");
  a.scale = ctx.Float("scale");
  if (ctx.has(kBias)) a.bias = ctx.in(kBias).as<float>();
  a.offset = ctx.out(kOffset).as<int32_t>();
  a.rows = ctx.out(kRows).as<int32_t>();
  return a;
}

FewExpertsArgs ExpertsOf(const KernelContext& ctx) {
  FewExpertsArgs a;
  a.choice = ChoiceOf(ctx);
  a.d = ctx.in(kH).dim(1);
  a.width = ctx.in(kGateUp).dim(1) / 2;
  a.x = ctx.out(kX).as<__nv_bfloat16>();
  a.gate_up = WeightRows(ctx.in(kGateUp), a.d);
  a.down = WeightRows(ctx.in(kDown), a.width);
  a.h = ctx.in(kH).as<float>();
  a.y = ctx.out(kY).as<float>();
  a.hidden = ctx.out(kHidden).as<__nv_bfloat16>();
  if (ctx.has(kSharedUp)) {
    a.shared_hidden = ctx.out(kShared).as<float>();
    a.shared_width = ctx.in(kSharedUp).dim(0) / 2;
    a.shared_down = WeightRows(ctx.in(kSharedDown), a.shared_width);
  }
  return a;
}

// The gate with the first half of the shared expert, in one launch.
FewRowsArgs GateOf(const KernelContext& ctx) {
  const Operand& h = ctx.in(kH);
  FewRowsArgs a;
  a.tokens = h.rows();
  a.k = a.pitch = h.dim(1);
  a.x = h.as<float>();
  a.gain = ctx.in(kGain).as<float>();
  a.eps = ctx.Float("eps");
  a.normed = ctx.out(kX).as<__nv_bfloat16>();
  a.product[0].w = WeightRows(ctx.in(kGate), a.k);
  if (ctx.has(kSharedUp)) {
    a.num_products = 2;
    a.product[1].w = WeightRows(ctx.in(kSharedUp), a.k);
    a.product[1].y = ctx.out(kShared).as<float>();
    a.product[1].swiglu = true;
  }
  return a;
}

bool IsFewTokens(const KernelContext& ctx) {
  return ctx.precision == Precision::kBf16 &&
         ctx.Int("num_groups") == ctx.Int("top_groups") &&
         HasFewExperts(ExpertsOf(ctx)) && HasFewRowsProducts(GateOf(ctx));
}

cudaError_t RunFewTokens(const KernelContext& ctx) {
  FewExpertsArgs experts = ExpertsOf(ctx);
  const Operand logits =
      TakeMatrix(ctx, ctx.in(kH).rows(), experts.choice.num_experts);
  experts.counters = ctx.Keep<ExpertCounters>("counters", 1);
  if (logits.data == nullptr || experts.counters == nullptr) {
    return cudaErrorMemoryAllocation;
  }
  FewRowsArgs gate = GateOf(ctx);
  gate.product[0].y = logits.as<float>();
  if (const cudaError_t e = FewRowsProducts(gate, ctx.stream); e) return e;
  experts.choice.logits = logits.as<float>();
  return FewExperts(experts, ctx.stream);
}

// --- RoutedExperts of a batch: up to 64 tokens, in BF16 from the norm on ---

RouteRowsArgs RoutesOf(const KernelContext& ctx) {
  RouteRowsArgs a;
  a.choice = ChoiceOf(ctx);
  a.d = ctx.in(kH).dim(1);
  a.x = ctx.out(kX).as<__nv_bfloat16>();
  return a;
}

ExpertLayerArgs LayerOf(const KernelContext& ctx) {
  const Operand& h = ctx.in(kH);
  ExpertLayerArgs a;
  a.tokens = h.rows();
  a.k = static_cast<int>(ctx.Int("k"));
  a.num_experts = static_cast<int>(ctx.in(kGate).dim(0));
  a.d = h.dim(1);
  a.width = ctx.in(kGateUp).dim(1) / 2;
  a.gate_up = ctx.in(kGateUp).as<__nv_bfloat16>();
  a.down = ctx.in(kDown).as<__nv_bfloat16>();
  a.offset = ctx.out(kOffset).as<int32_t>();
  a.rows = {a.max_slots(), ctx.out(kRows).as<int32_t>()};
  a.h = h.data;
  a.num_indexed = h.dim(0);
  a.y = ctx.out(kY).data;
  a.has_rows = true;
  a.fault = ctx.fault;
  return a;
}

bool IsBatchTokens(const KernelContext& ctx) {
  const Operand& up = ctx.in(kGateUp);
  const Operand& down = ctx.in(kDown);
  const ExpertLayerArgs layer = LayerOf(ctx);
  const int64_t t = layer.tokens.bound, d = layer.d;
  if (ctx.precision != Precision::kBf16 ||
      ctx.Int("num_groups") != ctx.Int("top_groups") ||
      !HasBatchLinear(t, d, ctx.in(kGate), false) ||
      !HasRouteRows(RoutesOf(ctx))) {
    return false;
  }
  if (ctx.has(kSharedUp) && (!HasBatchLinear(t, d, ctx.in(kSharedUp), true) ||
                             !HasBatchLinear(t, ctx.in(kSharedUp).dim(0) / 2,
                                             ctx.in(kSharedDown), false))) {
    return false;
  }
  if (IsPacked(up) && IsPacked(down)) {
    return layer.width % 8 == 0 && WeightRows(up, d).data != nullptr &&
           WeightRows(down, layer.width).data != nullptr;
  }
  return up.element_size == 2 && down.element_size == 2 &&
         HasExpertLayer(layer);
}

// Both products of packed experts, each weight read once; without operands.
struct PackedProducts {
  ExpertProductArgs up, down;
};
PackedProducts PackedOf(const KernelContext& ctx, const ExpertLayerArgs& layer,
                        bool with_shared) {
  PackedProducts p;
  p.up.num_experts = layer.num_experts;
  p.up.offset = layer.offset;
  p.up.max_rows = layer.max_slots();
  p.up.tokens = layer.tokens;
  p.down = p.up;
  p.up.experts.w = WeightRows(ctx.in(kGateUp), layer.d);
  p.down.experts.w = WeightRows(ctx.in(kDown), layer.width);
  if (with_shared) {
    p.up.shared.w = WeightRows(ctx.in(kSharedUp), layer.d);
    p.down.shared.w =
        WeightRows(ctx.in(kSharedDown), ctx.in(kSharedUp).dim(0) / 2);
  }
  return p;
}

// Experts of more rows than that, on average, have wider tiles.
bool HasPackedProducts(const KernelContext& ctx, const ExpertLayerArgs& layer,
                       bool with_shared) {
  constexpr int64_t kMaxRowsOfExpert = 4;
  if (!IsPacked(ctx.in(kGateUp)) ||
      layer.max_slots() > kMaxRowsOfExpert * layer.num_experts) {
    return false;
  }
  const PackedProducts p = PackedOf(ctx, layer, with_shared);
  return HasExpertProducts(p.up) && HasExpertProducts(p.down);
}

// The experts behind their routes, with the shared one, and the sum.
cudaError_t RunPackedProducts(const KernelContext& ctx, ExpertLayerArgs layer,
                              const int32_t* row_token, bool with_shared) {
  PackedProducts p = PackedOf(ctx, layer, with_shared);
  auto* const rows = ctx.Take<float>(layer.max_slots() * layer.d);
  p.up.parts = p.down.parts = ctx.Take<float>(ExpertProductParts());
  p.up.experts.x = ctx.out(kX).as<__nv_bfloat16>();
  p.up.experts.index = row_token;
  p.up.experts.hidden =
      ctx.Take<__nv_bfloat16>(layer.max_slots() * layer.width);
  p.down.experts.x = p.up.experts.hidden;
  p.down.experts.y = rows;
  if (rows == nullptr || p.up.parts == nullptr || p.down.experts.x == nullptr) {
    return cudaErrorMemoryAllocation;
  }
  if (with_shared) {
    p.up.shared.x = p.up.experts.x;
    p.up.shared.hidden = ctx.out(kShared).as<__nv_bfloat16>();
    p.down.shared.x = p.up.shared.hidden;
    p.down.shared.y = ctx.Take<float>(layer.tokens.bound * layer.d);
    if (p.down.shared.y == nullptr) return cudaErrorMemoryAllocation;
    layer.beside = p.down.shared.y;
  }
  if (const cudaError_t e = SwiGluProducts(p.up, ctx.stream); e) return e;
  if (const cudaError_t e = DownProducts(p.down, ctx.stream); e) return e;
  // The second product waits for the first, and that for the routes.
  return CombineExperts(layer, rows, /*bf16_rows=*/false, /*plan_is_old=*/true,
                        ctx.stream);
}

// The experts behind their routes, and the sum.
cudaError_t RunBatchExperts(const KernelContext& ctx, ExpertLayerArgs layer) {
  auto* const hidden = ctx.Take<__nv_bfloat16>(layer.max_slots() * layer.width);
  if (hidden == nullptr) return cudaErrorMemoryAllocation;
  if (!IsPacked(ctx.in(kGateUp))) {
    layer.hidden = hidden;
    return ExpertLayer(layer, ctx.stream);
  }
  const Operand both = TakeMatrix(ctx, layer.rows, 2 * layer.width);
  const Operand rows = TakeMatrix(ctx, layer.rows, layer.d);
  if (both.data == nullptr || rows.data == nullptr) {
    return cudaErrorMemoryAllocation;
  }
  const Operand& offset = ctx.out(kOffset);
  cudaError_t e =
      RunExpertLinear(ctx, Bf16Matrix(layer.gathered, layer.rows, layer.d),
                      ctx.in(kGateUp), offset, both);
  if (e == cudaSuccess) {
    e = SwiGluRounded(layer.rows, layer.width, both.as<float>(), hidden,
                      ctx.stream);
  }
  if (e == cudaSuccess) {
    e = RunExpertLinear(ctx, Bf16Matrix(hidden, layer.rows, layer.width),
                        ctx.in(kDown), offset, rows);
  }
  if (e != cudaSuccess) return e;
  return CombineExperts(layer, rows.data, /*bf16_rows=*/false,
                        /*plan_is_old=*/false, ctx.stream);
}

// Whether few tokens' experts are packed and so many that they are faster as a
// batch's: each in its tile of eight rows, by warps that do not wait for each
// other.
bool IsPackedBatch(const KernelContext& ctx) {
  constexpr int64_t kMinSlots = 32;
  const ExpertLayerArgs layer = LayerOf(ctx);
  return layer.max_slots() >= kMinSlots && IsBatchTokens(ctx) &&
         HasPackedProducts(ctx, layer, ctx.has(kSharedUp));
}

GateRoutesArgs GateRoutesOf(const KernelContext& ctx) {
  const Operand& h = ctx.in(kH);
  GateRoutesArgs a;
  a.choice = ChoiceOf(ctx);
  a.d = h.dim(1);
  a.h = h.as<float>();
  a.gain = ctx.in(kGain).as<float>();
  a.eps = ctx.Float("eps");
  a.gate = ctx.in(kGate).as<__nv_bfloat16>();
  a.x = ctx.out(kX).as<__nv_bfloat16>();
  return a;
}

cudaError_t RunBatchTokens(const KernelContext& ctx) {
  const Operand& h = ctx.in(kH);
  const Extent t = h.rows();
  RouteRowsArgs routes = RoutesOf(ctx);
  ExpertLayerArgs layer = LayerOf(ctx);
  auto* const weight = ctx.Take<float>(layer.max_slots());
  routes.slot_row = ctx.Take<int32_t>(layer.max_slots());
  const bool has_shared = ctx.has(kSharedUp);
  const bool with_shared =
      has_shared && HasPackedProducts(ctx, layer, /*with_shared=*/true);
  const bool packed =
      with_shared || HasPackedProducts(ctx, layer, /*with_shared=*/false);
  if (packed) {
    routes.row_token = ctx.Take<int32_t>(layer.max_slots());
  } else {
    layer.gathered = ctx.Take<__nv_bfloat16>(layer.max_slots() * layer.d);
  }
  if (weight == nullptr || routes.slot_row == nullptr ||
      (packed ? routes.row_token == nullptr : layer.gathered == nullptr)) {
    return cudaErrorMemoryAllocation;
  }
  layer.weight = weight;
  layer.slot_row = routes.slot_row;
  // Of packed experts alone, or with the shared one, it is one launch to there.
  GateRoutesArgs gate_routes = GateRoutesOf(ctx);
  if (packed && (!has_shared || with_shared) &&
      ctx.in(kGate).element_size == 2 && HasGateRoutes(gate_routes)) {
    gate_routes.choice.weight = weight;
    gate_routes.slot_row = routes.slot_row;
    gate_routes.row_token = routes.row_token;
    if (const cudaError_t e = GateRoutes(gate_routes, ctx.stream); e) return e;
    return RunPackedProducts(ctx, layer, routes.row_token, with_shared);
  }
  BatchLinear gate;
  gate.w = ctx.in(kGate);
  gate.y = ctx.Take<float>(t.bound * layer.num_experts);
  if (gate.y == nullptr) return cudaErrorMemoryAllocation;
  routes.choice.logits = gate.y;
  routes.choice.weight = weight;
  routes.gathered = layer.gathered;
  auto* const normed = ctx.out(kX).as<__nv_bfloat16>();
  const Operand x = Bf16Matrix(normed, t, layer.d);
  cudaError_t e =
      NormRounded(t, layer.d, h.as<float>(), ctx.in(kGain).as<float>(),
                  ctx.Float("eps"), normed, ctx.stream);
  if (e != cudaSuccess) return e;
  if (!has_shared || with_shared) {
    e = RunBatchLinear(ctx, x, gate);
    if (e == cudaSuccess) e = RouteRows(routes, ctx.stream);
    if (e != cudaSuccess) return e;
    return packed ? RunPackedProducts(ctx, layer, routes.row_token, with_shared)
                  : RunBatchExperts(ctx, layer);
  }
  // The shared expert first: y = h + what it makes. Its second product, if it
  // is one kernel, runs beside the routes, and the first of the experts brings
  // weights before either has ended.
  BatchLinear up, down;
  up.w = ctx.in(kSharedUp);
  up.rounded = ctx.out(kShared).as<__nv_bfloat16>();
  up.swiglu = true;
  down.w = ctx.in(kSharedDown);
  down.y = ctx.out(kY).as<float>();
  down.add = h.as<float>();
  layer.h = layer.y;
  const Operand hidden = Bf16Matrix(up.rounded, t, up.w.dim(0) / 2);
  down.x_ahead = routes.lets_late = layer.plan_is_old =
      !IsPacked(down.w) && !packed;
  e = RunBatchLinears(ctx, x, gate, up);
  if (e == cudaSuccess) e = RouteRows(routes, ctx.stream);
  if (e == cudaSuccess) e = RunBatchLinear(ctx, hidden, down);
  if (e != cudaSuccess) return e;
  return packed ? RunPackedProducts(ctx, layer, routes.row_token, with_shared)
                : RunBatchExperts(ctx, layer);
}

// --- RoutedExperts by its parts ---

// MaskedSoftmax's.
class UnitScale : public AttributeReader {
 public:
  int64_t Int(const char* name) const override { return 0; }
  double Float(const char* name) const override { return 1; }
  const char* Text(const char* name) const override { return ""; }
};

// x, a matrix or a vector of indices, in scratch.
Operand TakeIndices(const KernelContext& ctx, Extent rows, int64_t columns) {
  Operand operand;
  operand.data = ctx.Take<int32_t>(rows.bound * columns);
  operand.is_integer = true;
  operand.rank = columns > 1 ? 2 : 1;
  operand.dims[0] = rows.bound;
  operand.dims[1] = columns;
  operand.count = rows.count;
  return operand;
}

cudaError_t AddShared(const KernelContext& ctx, const Operand& x) {
  const Extent t = x.rows();
  const Operand both = TakeMatrix(ctx, t, ctx.in(kSharedUp).dim(0));
  const Operand sum = TakeMatrix(ctx, t, x.dim(1));
  if (both.data == nullptr || sum.data == nullptr) {
    return cudaErrorMemoryAllocation;
  }
  cudaError_t e = RunLinear(ctx, x, ctx.in(kSharedUp), both);
  if (e == cudaSuccess) e = RunPart(ctx, RunSwiGlu, {both}, ctx.out(kShared));
  if (e == cudaSuccess) {
    e = RunLinear(ctx, ctx.out(kShared), ctx.in(kSharedDown), sum);
  }
  if (e != cudaSuccess) return e;
  return RunPart(ctx, RunAdd, {ctx.out(kY), sum}, ctx.out(kY));
}

cudaError_t RunRoutedExperts(const KernelContext& ctx) {
  const Operand& h = ctx.in(kH);
  if (h.dim(0) == 0)
    return cudaMemsetAsync(ctx.out(kRows).data, 0, 4, ctx.stream);
  if (IsFewTokens(ctx) && !IsPackedBatch(ctx)) return RunFewTokens(ctx);
  if (IsBatchTokens(ctx)) return RunBatchTokens(ctx);
  const Extent t = h.rows();
  const int64_t experts = ctx.in(kGate).dim(0), k = ctx.Int("k");
  const Operand none;
  const Operand& x = ctx.out(kX);
  const Operand logits = TakeMatrix(ctx, t, experts);
  const Operand weight = TakeMatrix(ctx, t, k);
  Operand expert = TakeIndices(ctx, t, k);
  Operand slot_row = TakeIndices(ctx, t, k);
  expert.rank = slot_row.rank = 2;
  const Operand row_slot = TakeIndices(
      ctx, {t.bound * k, ctx.out(kRows).as<int32_t>()}, /*columns=*/1);
  DispatchPlanArgs plan;
  plan.tokens = t;
  plan.k = static_cast<int>(k);
  plan.num_experts = static_cast<int>(experts);
  plan.scratch = ctx.Take<int32_t>(DispatchPlanScratch(plan));
  for (const void* const p :
       {logits.data, weight.data, expert.data, slot_row.data, row_slot.data,
        static_cast<void*>(plan.scratch)}) {
    if (p == nullptr) return cudaErrorMemoryAllocation;
  }
  cudaError_t e = NormRows(ctx, h, ctx.in(kGain), ctx.Float("eps"), x);
  if (e == cudaSuccess) e = RunLinear(ctx, x, ctx.in(kGate), logits);
  if (e == cudaSuccess) {
    e = ctx.Int("softmax") != 0 ? RunPart(ctx, RunMaskedSoftmax, {logits, none},
                                          logits, UnitScale())
                                : RunPart(ctx, RunSigmoid, {logits}, logits);
  }
  if (e == cudaSuccess) {
    e = RunPart(ctx, RunTopKSelect,
                {logits, ctx.has(kBias) ? ctx.in(kBias) : none}, expert,
                *ctx.attrs);
  }
  if (e == cudaSuccess) {
    e = RunPart(ctx, RunSelectedWeight, {logits, expert}, weight, *ctx.attrs);
  }
  if (e != cudaSuccess) return e;
  plan.expert = expert.as<int32_t>();
  plan.row_slot = row_slot.as<int32_t>();
  plan.slot_row = slot_row.as<int32_t>();
  plan.offset = ctx.out(kOffset).as<int32_t>();
  plan.rows = ctx.out(kRows).as<int32_t>();
  plan.fault = ctx.fault;
  e = PlanDispatch(plan, ctx.stream);
  if (e == cudaSuccess) {
    e = RunPart(ctx, RunExpertsResidual,
                {x, row_slot, slot_row, ctx.out(kOffset), weight,
                 ctx.in(kGateUp), ctx.in(kDown), h},
                ctx.out(kY));
  }
  if (e != cudaSuccess || !ctx.has(kSharedUp)) return e;
  return AddShared(ctx, x);
}

// --- NormMlp ---

enum MlpInput {
  kMlpH,
  kMlpGain,
  kMlpGateUp,
  kMlpDown,
  kMlpUpBias,
  kMlpDownBias
};

int64_t MlpWidth(const KernelContext& ctx) {
  return ctx.in(kMlpGateUp).dim(0) / 2;
}

bool IsFewMlp(const KernelContext& ctx) {
  const Operand& h = ctx.in(kMlpH);
  return ctx.precision == Precision::kBf16 && !ctx.has(kMlpUpBias) &&
         HasFewRows(h.dim(0), WeightRows(ctx.in(kMlpGateUp), h.dim(1))) &&
         HasFewRows(h.dim(0), WeightRows(ctx.in(kMlpDown), MlpWidth(ctx)));
}

cudaError_t RunFewMlp(const KernelContext& ctx) {
  const Operand& h = ctx.in(kMlpH);
  const int64_t width = MlpWidth(ctx);
  auto* const hidden = ctx.Take<float>(h.dim(0) * width);
  if (hidden == nullptr) return cudaErrorMemoryAllocation;
  FewRowsArgs a;
  a.tokens = h.rows();
  a.k = a.pitch = h.dim(1);
  a.x = h.as<float>();
  a.gain = ctx.in(kMlpGain).as<float>();
  a.eps = ctx.Float("eps");
  a.product[0].w = WeightRows(ctx.in(kMlpGateUp), a.k);
  a.product[0].y = hidden;
  a.product[0].swiglu = true;
  if (const cudaError_t e = FewRowsProducts(a, ctx.stream); e) return e;
  FewRowsArgs b;
  b.tokens = h.rows();
  b.k = b.pitch = width;
  b.x = hidden;
  b.product[0].w = WeightRows(ctx.in(kMlpDown), width);
  b.product[0].y = ctx.out(0).as<float>();
  b.product[0].add = h.as<float>();
  return FewRowsProducts(b, ctx.stream);
}

bool IsBatchMlp(const KernelContext& ctx) {
  const int64_t tokens = ctx.in(kMlpH).dim(0), d = ctx.in(kMlpH).dim(1);
  return ctx.precision == Precision::kBf16 && !ctx.has(kMlpUpBias) &&
         HasBatchLinear(tokens, d, ctx.in(kMlpGateUp), true) &&
         HasBatchLinear(tokens, MlpWidth(ctx), ctx.in(kMlpDown), false);
}

cudaError_t RunBatchMlp(const KernelContext& ctx) {
  const Operand& h = ctx.in(kMlpH);
  const Extent t = h.rows();
  const int64_t d = h.dim(1), width = MlpWidth(ctx);
  auto* const normed = ctx.Take<__nv_bfloat16>(t.bound * d);
  BatchLinear up, down;
  up.w = ctx.in(kMlpGateUp);
  up.rounded = ctx.Take<__nv_bfloat16>(t.bound * width);
  up.swiglu = true;
  down.w = ctx.in(kMlpDown);
  down.y = ctx.out(0).as<float>();
  down.add = h.as<float>();
  if (normed == nullptr || up.rounded == nullptr) {
    return cudaErrorMemoryAllocation;
  }
  cudaError_t e = NormRounded(t, d, h.as<float>(), ctx.in(kMlpGain).as<float>(),
                              ctx.Float("eps"), normed, ctx.stream);
  if (e == cudaSuccess) {
    e = RunBatchLinear(ctx, Bf16Matrix(normed, t, d), up);
  }
  if (e != cudaSuccess) return e;
  return RunBatchLinear(ctx, Bf16Matrix(up.rounded, t, width), down);
}

cudaError_t RunNormMlp(const KernelContext& ctx) {
  const Operand& h = ctx.in(kMlpH);
  if (h.dim(0) == 0) return cudaSuccess;
  if (IsFewMlp(ctx)) return RunFewMlp(ctx);
  if (IsBatchMlp(ctx)) return RunBatchMlp(ctx);
  const Extent t = h.rows();
  const int64_t d = h.dim(1), width = MlpWidth(ctx);
  const Operand x = TakeMatrix(ctx, t, d);
  const Operand both = TakeMatrix(ctx, t, 2 * width);
  const Operand hidden = TakeMatrix(ctx, t, width);
  for (const Operand& part : {x, both, hidden}) {
    if (part.data == nullptr) return cudaErrorMemoryAllocation;
  }
  cudaError_t e = NormRows(ctx, h, ctx.in(kMlpGain), ctx.Float("eps"), x);
  if (e == cudaSuccess) e = RunLinear(ctx, x, ctx.in(kMlpGateUp), both);
  if (e == cudaSuccess && ctx.has(kMlpUpBias)) {
    e = RunPart(ctx, RunAddBias, {both, ctx.in(kMlpUpBias)}, both);
  }
  if (e == cudaSuccess) e = RunPart(ctx, RunSwiGlu, {both}, hidden);
  if (e == cudaSuccess) e = RunLinear(ctx, hidden, ctx.in(kMlpDown), x);
  if (e == cudaSuccess && ctx.has(kMlpDownBias)) {
    e = RunPart(ctx, RunAddBias, {x, ctx.in(kMlpDownBias)}, x);
  }
  if (e != cudaSuccess) return e;
  return RunPart(ctx, RunAdd, {h, x}, ctx.out(0));
}

}  // namespace

void RegisterRoutedExpertsKernels(KernelRegistry& kernels) {
  // The second of each with packed weights (core/ops/quant_fused.h).
  for (const char* const op : {"RoutedExperts", "QuantRoutedExperts"}) {
    kernels.Register(op, RunRoutedExperts, /*prepare=*/nullptr,
                     /*alone=*/true);  // Of expert_stream.cuh.
  }
  for (const char* const op : {"NormMlp", "QuantNormMlp"}) {
    kernels.Register(op, RunNormMlp);
  }
}

}  // namespace strata::gpu
