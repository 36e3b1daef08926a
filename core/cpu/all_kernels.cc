#include "core/cpu/all_kernels.h"

#include "core/cpu/activation.h"
#include "core/cpu/attend/full_attention.h"
#include "core/cpu/attend/packed_attention.h"
#include "core/cpu/attention.h"
#include "core/cpu/biased_score.h"
#include "core/cpu/collective.h"
#include "core/cpu/dispatch.h"
#include "core/cpu/elementwise.h"
#include "core/cpu/embedding.h"
#include "core/cpu/fused/fused.h"
#include "core/cpu/gate.h"
#include "core/cpu/gate_loss.h"
#include "core/cpu/gate_select.h"
#include "core/cpu/grouped_matmul.h"
#include "core/cpu/loss.h"
#include "core/cpu/matmul.h"
#include "core/cpu/norm.h"
#include "core/cpu/optimizer.h"
#include "core/cpu/placement/expert_placement.h"
#include "core/cpu/quant/move_codes.h"
#include "core/cpu/quant_matmul.h"
#include "core/cpu/rope.h"
#include "core/runtime/kernel_registry.h"

namespace strata {

KernelRegistry AllCpuKernels() {
  KernelRegistry registry;
  RegisterActivationKernels(registry);
  RegisterAttentionKernels(registry);
  RegisterBiasedScoreKernels(registry);
  RegisterCollectiveKernels(registry);
  RegisterDispatchKernels(registry);
  RegisterElementwiseKernels(registry);
  RegisterEmbeddingKernels(registry);
  RegisterExpertPlacementKernels(registry);
  RegisterFullAttentionKernels(registry);
  RegisterFusedKernels(registry);
  RegisterGateKernels(registry);
  RegisterGateLossKernels(registry);
  RegisterGateSelectKernels(registry);
  RegisterGroupedMatMulKernels(registry);
  RegisterLossKernels(registry);
  RegisterMatMulKernels(registry);
  RegisterMoveCodesKernels(registry);
  RegisterNormKernels(registry);
  RegisterOptimizerKernels(registry);
  RegisterPackedAttentionKernels(registry);
  RegisterQuantMatMulKernels(registry);
  RegisterRopeKernels(registry);
  return registry;
}

}  // namespace strata
