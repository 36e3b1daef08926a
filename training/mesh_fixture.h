// Ranks of a test: threads of one process.

#ifndef TRAINING_MESH_FIXTURE_H_
#define TRAINING_MESH_FIXTURE_H_

#include <functional>

#include "core/parallel/mesh.h"

namespace strata {

// Calls `body` as each rank of a mesh, and waits for all.
void OnMesh(const MeshShape& shape,
            const std::function<void(const Mesh& mesh)>& body);

}  // namespace strata

#endif  // TRAINING_MESH_FIXTURE_H_
