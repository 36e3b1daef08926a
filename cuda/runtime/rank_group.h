// Waiting for a program whose collectives wait for other ranks: not for ever.

#ifndef CUDA_RUNTIME_RANK_GROUP_H_
#define CUDA_RUNTIME_RANK_GROUP_H_

#include <functional>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

// A group of ranks whose kernels wait for one another: what a mesh's groups of
// GPUs are besides.
class RankGroup {
 public:
  virtual ~RankGroup() = default;

  // How long a rank may be late.
  virtual absl::Duration timeout() const = 0;

  // Ends the kernels of this rank that wait for the others. Every later call of
  // the group, and this one, returns DEADLINE_EXCEEDED that names it, `what`,
  // and ranks that have not been heard of.
  virtual absl::Status GiveUp(absl::string_view what) = 0;
};

// Asks `query`, of a stream or an event, until it is ready, and returns its
// error. After the longest of the groups' time-outs and `grace` all groups give
// up, and the first one's error is returned: kernels that watch the time
// themselves, and know more, come first. Without groups it waits for as long as
// it takes.
absl::Status WaitForRanks(absl::Span<RankGroup* const> groups,
                          absl::string_view what, absl::Duration grace,
                          const std::function<cudaError_t()>& query);

}  // namespace strata::gpu

#endif  // CUDA_RUNTIME_RANK_GROUP_H_
