#include "training/layer_norms.h"

#include <cmath>
#include <cstdint>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "core/base/status_macros.h"
#include "core/parallel/communicator.h"
#include "core/parallel/mesh.h"
#include "core/runtime/program.h"
#include "core/tensor/dtype.h"
#include "core/tensor/tensor.h"
#include "training/metrics.h"
#include "training/step_graph.h"

namespace strata {

LayerNorms::LayerNorms(const Program& update, int64_t num_layers,
                       const MeshShape& shape, Communicator* world,
                       bool of_owners)
    : num_layers_(num_layers),
      world_(shape.ep > 1 || shape.pp > 1 || of_owners ? world : nullptr) {
  for (int64_t layer = 0; layer < num_layers; ++layer) {
    for (const LayerPart part : {LayerPart::kCommon, LayerPart::kShard}) {
      std::string output = LayerNormName(layer, part);
      if (update.graph().outputs().count(output) == 0) continue;
      const int holders =
          of_owners ? 1
                    : shape.dp * (part == LayerPart::kCommon ? shape.ep : 1);
      parts_.push_back(
          {layer, std::move(output), world_ != nullptr ? 1.0 / holders : 1.0});
    }
  }
}

absl::Status LayerNorms::Read(const Program& update,
                              LayerGradNorms& norms) const {
  norms.assign(num_layers_, 0);
  for (const Part& part : parts_) {
    const TensorView& norm = update.Output(part.output);
    const double x =
        norm.dtype == DType::kF64 ? *norm.as<double>() : *norm.as<float>();
    norms[part.layer] += part.share * x * x;
  }
  if (world_ != nullptr) {
    RETURN_IF_ERROR(world_->AllReduce(
        PayloadOf(absl::MakeSpan(norms.data(), norms.size())), ReduceOp::kSum));
  }
  for (double& norm : norms) norm = std::sqrt(norm);
  return absl::OkStatus();
}

}  // namespace strata
