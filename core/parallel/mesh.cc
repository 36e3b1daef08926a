#include "core/parallel/mesh.h"

#include <algorithm>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/base/status_macros.h"
#include "core/parallel/communicator.h"

namespace strata {

std::string ToText(const MeshShape& shape) {
  return absl::StrCat("dp ", shape.dp, " x ep ", shape.ep, " x pp ", shape.pp);
}

absl::StatusOr<std::unique_ptr<Mesh>> Mesh::Create(Communicator& world,
                                                   const MeshShape& shape) {
  if (shape.dp < 1 || shape.ep < 1 || shape.pp < 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the mesh is ", ToText(shape), "; want 1 or more of each"));
  }
  if (shape.size() != world.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the mesh ", ToText(shape), " has ", shape.size(),
                     " ranks; ", world.size(), " were started"));
  }
  if (shape.mirrored && shape.pp % 2 != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("pp is ", shape.pp,
                     "; want an even number, as each stage is on two ranks"));
  }
  auto mesh = std::unique_ptr<Mesh>(new Mesh(world, shape));
  const int rank = world.rank();
  const int ep_rank = rank % shape.ep;
  const int dp_rank = rank / shape.ep % shape.dp;
  const int pp_rank = rank / (shape.ep * shape.dp);
  ASSIGN_OR_RETURN(mesh->batch_, world.Split(pp_rank, rank, "batch"));
  ASSIGN_OR_RETURN(mesh->dp_,
                   world.Split(pp_rank * shape.ep + ep_rank, rank, "dp"));
  ASSIGN_OR_RETURN(mesh->ep_, world.Split(rank / shape.ep, rank, "ep"));
  ASSIGN_OR_RETURN(mesh->pp_,
                   world.Split(dp_rank * shape.ep + ep_rank, rank, "pp"));
  if (shape.pp > 1) {
    const bool is_end = pp_rank == 0 || pp_rank == shape.pp - 1;
    ASSIGN_OR_RETURN(mesh->ends_,
                     world.Split(is_end ? dp_rank * shape.ep + ep_rank
                                        : Communicator::kNoColor,
                                 rank, "ends"));
  }
  if (shape.mirrored) {
    const int pair = std::min(pp_rank, shape.pp - 1 - pp_rank);
    ASSIGN_OR_RETURN(mesh->mirror_, world.Split(rank % (shape.dp * shape.ep) +
                                                    pair * shape.dp * shape.ep,
                                                rank, "mirror"));
  }
  return mesh;
}

Communicator* Mesh::Find(absl::string_view group) const {
  for (Communicator* const one : {&world_, batch_.get(), dp_.get(), ep_.get(),
                                  pp_.get(), ends_.get(), mirror_.get()}) {
    if (one != nullptr && one->name() == group) return one;
  }
  return nullptr;
}

}  // namespace strata
