#include "cuda/runtime/side_lane_streams.h"

#include <map>
#include <mutex>

#include "cuda_runtime_api.h"

namespace strata::gpu {
namespace {

struct Streams {
  std::mutex mutex;
  std::map<cudaStream_t, int> beside;  // Nodes under way, by the stream beside.
};

Streams& All() {
  static auto* const all = new Streams;
  return *all;
}

}  // namespace

void BeginBeside(cudaStream_t main) {
  const std::lock_guard<std::mutex> lock(All().mutex);
  ++All().beside[main];
}

void EndBeside(cudaStream_t main) {
  const std::lock_guard<std::mutex> lock(All().mutex);
  const auto it = All().beside.find(main);
  if (it != All().beside.end() && --it->second == 0) All().beside.erase(it);
}

bool RunsBeside(cudaStream_t stream) {
  const std::lock_guard<std::mutex> lock(All().mutex);
  return All().beside.count(stream) > 0;
}

}  // namespace strata::gpu
