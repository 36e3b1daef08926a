#include "cuda/ops/all_kernels.h"

#include "cuda/nccl/collective.h"
#include "cuda/ops/activation.h"
#include "cuda/ops/attention.h"
#include "cuda/ops/bf16/weight_grad_sum.h"
#include "cuda/ops/cache/cached_attention.h"
#include "cuda/ops/cache/packed_cache.h"
#include "cuda/ops/decode/fused_heads.h"
#include "cuda/ops/decode/fused_latent.h"
#include "cuda/ops/decode/routed_experts.h"
#include "cuda/ops/dispatch.h"
#include "cuda/ops/elementwise.h"
#include "cuda/ops/embedding.h"
#include "cuda/ops/fused_experts.h"
#include "cuda/ops/fused_gate.h"
#include "cuda/ops/gate.h"
#include "cuda/ops/gate_loss.h"
#include "cuda/ops/gate_select.h"
#include "cuda/ops/gates/expert_context.h"
#include "cuda/ops/grouped_matmul.h"
#include "cuda/ops/latent_attention.h"
#include "cuda/ops/loss.h"
#include "cuda/ops/matmul.h"
#include "cuda/ops/norm.h"
#include "cuda/ops/optimizer.h"
#include "cuda/ops/placement/expert_placement.h"
#include "cuda/ops/quant_matmul.h"
#include "cuda/ops/residual/fed_norm.h"
#include "cuda/ops/rope.h"
#include "cuda/ops/route/tier_route.h"
#include "cuda/ops/step/head_loss.h"
#include "cuda/ops/step/move_codes.h"
#include "cuda/ops/step/slot_dot.h"
#include "cuda/runtime/kernel_table.h"

namespace strata::gpu {

KernelTable AllCudaKernels() {
  KernelTable table;
  RegisterActivationKernels(table);
  RegisterAttentionKernels(table);
  RegisterCachedAttentionKernels(table);
  RegisterCollectiveKernels(table);
  RegisterDispatchKernels(table);
  RegisterElementwiseKernels(table);
  RegisterEmbeddingKernels(table);
  RegisterExpertContextGradKernels(table);
  RegisterExpertContextKernels(table);
  RegisterExpertPlacementKernels(table);
  RegisterFedNormKernels(table);
  RegisterFusedExpertsKernels(table);
  RegisterFusedGateKernels(table);
  RegisterFusedHeadsKernels(table);
  RegisterFusedLatentKernels(table);
  RegisterGateKernels(table);
  RegisterGateLossKernels(table);
  RegisterGateSelectKernels(table);
  RegisterGroupedMatMulKernels(table);
  RegisterHeadLossKernels(table);
  RegisterLatentAttentionKernels(table);
  RegisterLossKernels(table);
  RegisterMatMulKernels(table);
  RegisterMoveCodesKernels(table);
  RegisterNormKernels(table);
  RegisterOptimizerKernels(table);
  RegisterQuantMatMulKernels(table);
  RegisterPackedAttentionKernels(table);
  RegisterPackedCacheKernels(table);
  RegisterRopeKernels(table);
  RegisterRoutedExpertsKernels(table);
  RegisterSlotDotKernels(table);
  RegisterTierRouteKernels(table);
  RegisterWeightGradSumKernels(table);
  return table;
}

}  // namespace strata::gpu
