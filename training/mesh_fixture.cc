#include "training/mesh_fixture.h"

#include <functional>
#include <thread>
#include <vector>

#include "absl/time/time.h"
#include "core/parallel/mesh.h"
#include "core/parallel/thread_communicator.h"
#include "core/testing/status_matchers.h"
#include "gtest/gtest.h"

namespace strata {

void OnMesh(const MeshShape& shape,
            const std::function<void(const Mesh& mesh)>& body) {
  const auto world = ThreadCommunicators(shape.size(), absl::Seconds(60));
  std::vector<std::thread> threads;
  for (const auto& rank : world) {
    threads.emplace_back([&, rank = rank.get()] {
      const auto mesh = Mesh::Create(*rank, shape);
      ASSERT_THAT(mesh, IsOk());
      body(**mesh);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace strata
