// What every communicator checks of a call before it begins, and how it says
// what went wrong.

#ifndef CORE_PARALLEL_COLLECTIVE_CHECKS_H_
#define CORE_PARALLEL_COLLECTIVE_CHECKS_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "core/parallel/communicator.h"

namespace strata {

// That `rank` is one of the group's.
absl::Status CheckRank(const Communicator& group, absl::string_view call,
                       int rank);

// That sums are defined of the dtype.
absl::Status CheckReducible(const Communicator& group, absl::string_view call,
                            const Payload& data);

// The counts: one a rank, none negative, and those of the buffers.
absl::Status CheckAllGather(const Communicator& group, const Payload& in,
                            absl::Span<const int64_t> counts,
                            const Payload& out);
absl::Status CheckReduceScatter(const Communicator& group, const Payload& in,
                                absl::Span<const int64_t> counts,
                                const Payload& out);
absl::Status CheckAllToAll(const Communicator& group, const Payload& in,
                           absl::Span<const int64_t> send,
                           absl::Span<const int64_t> receive,
                           const Payload& out);

// "dp: all_reduce of 12 F32: rank 3 has not come in 30s". `missing` may be
// empty where nobody knows.
absl::Status LateError(const Communicator& group, absl::string_view call,
                       const std::vector<int>& missing, absl::Duration timeout);

// A message of another size than `data`.
absl::Status SizeError(const Communicator& group, int from, int64_t num_bytes,
                       const Payload& data);

}  // namespace strata

#endif  // CORE_PARALLEL_COLLECTIVE_CHECKS_H_
