#include "sim/workload/calibrated_kernels.h"

#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/base/status_macros.h"
#include "sim/compute/expert_rows.h"
#include "sim/compute/kernel_model.h"
#include "sim/compute/kernel_shape.h"
#include "sim/workload/kernel_times.h"

namespace strata::sim {
namespace {

using Kind = Kernel::Kind;

int64_t Whole(double size) { return std::llround(size); }

KernelTime FromPrediction(const Prediction& prediction) {
  return {prediction.seconds, prediction.median_error, prediction.inside_range};
}

ExpertRows Rows(const Kernel& kernel) {
  std::vector<int64_t> rows;
  rows.reserve(kernel.expert_rows.size());
  for (const double r : kernel.expert_rows) rows.push_back(Whole(r));
  return RowsOf(rows);
}

// What an element of the products' operands is.
Precision PrecisionOf(const Kernel& kernel) {
  return kernel.fp8 ? Precision::kFp8 : Precision::kBf16;
}

}  // namespace

absl::StatusOr<CalibratedKernels> CalibratedKernels::Load(
    absl::string_view device) {
  ASSIGN_OR_RETURN(KernelModel model, KernelModel::Load(device));
  return CalibratedKernels(std::move(model));
}

absl::StatusOr<KernelTime> CalibratedKernels::Of(const Kernel& kernel) const {
  switch (kernel.kind) {
    case Kind::kMatMul: {
      struct MatMul shape;
      shape.m = Whole(kernel.m);
      shape.n = Whole(kernel.n);
      shape.k = Whole(kernel.k);
      shape.precision = PrecisionOf(kernel);
      shape.quantised = true;  // By kernels of their own: layer_cost.h.
      return FromPrediction(model_.Predict(shape));
    }
    case Kind::kGroupedMatMul:
    case Kind::kGroupedWeightGrad: {
      // The weight gradient of an expert, [n, k] from its rows, does the same
      // multiplications as its product; nobody measured it apart.
      struct GroupedMatMul shape;
      shape.rows = Rows(kernel);
      shape.num_experts = static_cast<int64_t>(kernel.expert_rows.size());
      shape.n = Whole(kernel.n);
      shape.k = Whole(kernel.k);
      shape.precision = PrecisionOf(kernel);
      return FromPrediction(model_.Predict(shape));
    }
    case Kind::kAttention: {
      AttentionPrefill shape;
      shape.batch = kernel.batch;
      shape.sequence = kernel.sequence;
      shape.heads = kernel.heads;
      shape.kv_heads = kernel.kv_heads;
      shape.head_dim = kernel.head_dim;
      shape.scores_only = true;  // The graph has its Rope.
      shape.backward = kernel.backward;
      return FromPrediction(model_.Predict(shape));
    }
    case Kind::kLatentAttention: {
      LatentPrefill shape;
      shape.batch = kernel.batch;
      shape.sequence = kernel.sequence;
      shape.heads = kernel.heads;
      shape.latent = kernel.latent_dim;
      shape.rope = kernel.rope_dim;
      shape.nope = kernel.head_dim - kernel.rope_dim;
      shape.value_dim = kernel.value_dim;
      shape.scores_only = true;  // The graph has its Rope.
      shape.backward = kernel.backward;
      return FromPrediction(model_.Predict(shape));
    }
    case Kind::kDecodeAttention: {
      AttentionDecode shape;
      shape.batch = kernel.batch;
      shape.context = kernel.sequence;
      shape.heads = kernel.heads;
      shape.kv_heads = kernel.kv_heads;
      shape.head_dim = kernel.head_dim;
      return FromPrediction(model_.Predict(shape));
    }
    case Kind::kLatentDecode: {
      LatentDecode shape;
      shape.batch = kernel.batch;
      shape.context = kernel.sequence;
      shape.heads = kernel.heads;
      shape.latent = kernel.latent_dim;
      shape.rope = kernel.rope_dim;
      return FromPrediction(model_.Predict(shape));
    }
    case Kind::kElementwise:
      break;
  }
  Elementwise shape;
  shape.bytes = kernel.bytes;
  return FromPrediction(model_.Predict(shape));
}

}  // namespace strata::sim
