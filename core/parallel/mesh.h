// The mesh: how ranks are laid out, and the groups that they form.
//
//   world rank = (pp_rank * dp + dp_rank) * ep + ep_rank
//
//   pp   stages of the pipeline, each of which has part of the layers
//   ep   ranks that share the experts of a layer out
//   dp   ranks that hold the same experts
//   batch   dp x ep: all ranks of a stage, each with sequences of its own. They
//           hold the same attention, norms and gates.
//
//   ends  the first and the last of several stages: they may share parameters
//   mirror  of a mirrored pipeline, pp_rank s and pp - 1 - s, which hold the
//           same two stages' layers (DualPipe,
//           core/parallel/pipeline_schedule.h)
//
// Ranks of one ep group are neighbours: dispatch and combine move the most.

#ifndef CORE_PARALLEL_MESH_H_
#define CORE_PARALLEL_MESH_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/parallel/communicator.h"

namespace strata {

struct MeshShape {
  int dp = 1;
  int ep = 1;
  int pp = 1;
  // Each stage is on two ranks of pp, which is even then.
  bool mirrored = false;

  int size() const { return dp * ep * pp; }
};

// "dp 2 x ep 4 x pp 1".
std::string ToText(const MeshShape& shape);

class Mesh {
 public:
  // To be called by every rank of `world`, which must outlive the mesh.
  //
  // Returns INVALID_ARGUMENT if the world has not as many ranks as the shape,
  // or an odd pp is to be mirrored.
  static absl::StatusOr<std::unique_ptr<Mesh>> Create(Communicator& world,
                                                      const MeshShape& shape);

  const MeshShape& shape() const { return shape_; }
  // Calls change the communicator, not the mesh.
  // By name, as an operator has it: "world", "batch", "dp", "ep", "pp", "ends",
  // "mirror".
  // Null if there is no such group, or if this rank is in none.
  Communicator* Find(absl::string_view group) const;
  Communicator& world() const { return world_; }
  Communicator& batch() const { return *batch_; }
  Communicator& dp() const { return *dp_; }
  Communicator& ep() const { return *ep_; }
  Communicator& pp() const { return *pp_; }

 private:
  Mesh(Communicator& world, const MeshShape& shape)
      : world_(world), shape_(shape) {}

  Communicator& world_;
  const MeshShape shape_;
  std::unique_ptr<Communicator> batch_, dp_, ep_, pp_, ends_, mirror_;
};

}  // namespace strata

#endif  // CORE_PARALLEL_MESH_H_
