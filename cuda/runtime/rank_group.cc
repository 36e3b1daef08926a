#include "cuda/runtime/rank_group.h"

#include <algorithm>
#include <functional>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "core/parallel/pulse.h"
#include "cuda/runtime/status.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

absl::Status WaitForRanks(absl::Span<RankGroup* const> groups,
                          absl::string_view what, absl::Duration grace,
                          const std::function<cudaError_t()>& query) {
  absl::Duration longest =
      groups.empty() ? absl::InfiniteDuration() : absl::ZeroDuration();
  for (const RankGroup* const group : groups) {
    longest = std::max(longest, group->timeout());
  }
  const absl::Time end = absl::Now() + longest + grace;
  for (int turn = 0;; turn = (turn + 1) % 64) {
    const cudaError_t error = query();
    if (error != cudaErrorNotReady) return ToStatus(error);
    if (turn != 0) continue;
    BeatPulse();
    if (absl::Now() > end) break;
  }
  absl::Status first;
  for (RankGroup* const group : groups) first.Update(group->GiveUp(what));
  return first;
}

}  // namespace strata::gpu
