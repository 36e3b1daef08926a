#include "sim/workload/kernel_times.h"

#include <algorithm>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace strata::sim {
namespace {

using Kind = Kernel::Kind;

constexpr double kBf16Bytes = 2;

bool IsDecode(Kind kind) {
  return kind == Kind::kDecodeAttention || kind == Kind::kLatentDecode;
}

}  // namespace

absl::string_view Name(Family family) {
  switch (family) {
    case Family::kMatMul:
      return "dense products";
    case Family::kExperts:
      return "experts";
    case Family::kAttention:
      return "attention";
    case Family::kElementwise:
      return "norms, gates, loss";
  }
  return "";
}

double Kernel::Flops() const {
  switch (kind) {
    case Kind::kMatMul:
    case Kind::kGroupedMatMul:
    case Kind::kGroupedWeightGrad:
      return 2 * m * n * k;
    case Kind::kAttention:
    case Kind::kLatentAttention: {
      const double pairs =
          static_cast<double>(batch) * sequence * (sequence + 1.0) / 2;
      // Forward two products, backward four; making scores again is not
      // counted.
      return (backward ? 4 : 2) * pairs * heads * (head_dim + value_dim);
    }
    case Kind::kDecodeAttention:
    case Kind::kLatentDecode:
      return 2.0 * batch * sequence * heads * (head_dim + value_dim);
    case Kind::kElementwise:
      break;
  }
  return 0;
}

double BytesMoved(const Kernel& kernel) {
  const double element = kernel.fp8 ? 1 : kBf16Bytes;
  const double batch = static_cast<double>(kernel.batch);
  const double sequence = static_cast<double>(kernel.sequence);
  switch (kernel.kind) {
    case Kind::kMatMul:
      return element * (kernel.m * kernel.k + kernel.k * kernel.n) +
             kBf16Bytes * kernel.m * kernel.n;
    case Kind::kGroupedMatMul:
    case Kind::kGroupedWeightGrad: {
      double touched = 0;
      for (const double rows : kernel.expert_rows) touched += rows > 0;
      return element * kernel.m * kernel.k +
             touched * element * kernel.k * kernel.n +
             kBf16Bytes * kernel.m * kernel.n;
    }
    case Kind::kAttention:
    case Kind::kLatentAttention:
      return (kernel.backward ? 2 : 1) * kBf16Bytes * batch * sequence *
             (kernel.heads + kernel.kv_heads) *
             (kernel.head_dim + kernel.value_dim);
    case Kind::kDecodeAttention:
      return kBf16Bytes * batch * sequence * kernel.kv_heads *
             (kernel.head_dim + kernel.value_dim);
    case Kind::kLatentDecode:
      return kBf16Bytes * batch * sequence *
             (kernel.latent_dim + kernel.rope_dim);
    case Kind::kElementwise:
      break;
  }
  return kernel.bytes;
}

absl::StatusOr<KernelTime> RooflineKernels::Of(const Kernel& kernel) const {
  const bool in_fp8 = kernel.fp8 && rates_.fp8_flops > 0;
  const double peak = in_fp8 ? rates_.fp8_flops : rates_.bf16_flops;
  // The gradient makes scores again: five products for the forward's two.
  const bool again = kernel.backward && !IsDecode(kernel.kind);
  const double flops = kernel.Flops() * (again ? 1.25 : 1);
  KernelTime time;
  time.seconds = rates_.launch_seconds +
                 std::max(flops / (peak * rates_.flops_share),
                          BytesMoved(kernel) /
                              (rates_.memory_bytes * rates_.memory_share));
  return time;
}

}  // namespace strata::sim
