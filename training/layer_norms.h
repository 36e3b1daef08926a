// The norm of each layer's gradients, over all ranks, from what a step's update
// said of this rank's part (step_graph.h, LayerNormName).

#ifndef TRAINING_LAYER_NORMS_H_
#define TRAINING_LAYER_NORMS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "core/parallel/communicator.h"
#include "core/parallel/mesh.h"
#include "core/runtime/program.h"
#include "training/metrics.h"

namespace strata {

// Allocates nothing after it was made, up to 64 layers.
class LayerNorms {
 public:
  // `world`: null of one rank, otherwise all ranks of the mesh. `of_owners`: a
  // rank's norms are of what it updates (RankSums::to_owners).
  LayerNorms(const Program& update, int64_t num_layers, const MeshShape& shape,
             Communicator* world, bool of_owners = false);

  // After a run of `update`. Of a model whose layers or experts are spread over
  // ranks every rank calls it; returns the errors of AllReduce.
  absl::Status Read(const Program& update, LayerGradNorms& norms) const;

 private:
  struct Part {
    int64_t layer;
    std::string output;
    double share;  // Of the sum over ranks: several hold the same.
  };

  int64_t num_layers_;
  std::vector<Part> parts_;
  Communicator* world_;  // Null where this rank has all that counts.
};

}  // namespace strata

#endif  // TRAINING_LAYER_NORMS_H_
