#include "core/cpu/fused/fused.h"

#include "core/cpu/fused/expert_context_grad.h"
#include "core/cpu/fused/fed_norm.h"
#include "core/cpu/fused/fused_attention.h"
#include "core/cpu/fused/fused_experts.h"
#include "core/cpu/fused/fused_gate.h"
#include "core/cpu/fused/fused_latent.h"
#include "core/cpu/fused/fused_loss.h"
#include "core/cpu/fused/slot_dot.h"
#include "core/runtime/kernel_registry.h"

namespace strata {

void RegisterFusedKernels(KernelRegistry& kernels) {
  RegisterExpertContextGradKernels(kernels);
  RegisterFedNormKernels(kernels);
  RegisterFusedAttentionKernels(kernels);
  RegisterFusedExpertsKernels(kernels);
  RegisterFusedGateKernels(kernels);
  RegisterFusedLatentKernels(kernels);
  RegisterFusedLossKernels(kernels);
  RegisterSlotDotKernels(kernels);
}

}  // namespace strata
