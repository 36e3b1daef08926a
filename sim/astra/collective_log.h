// Who has joined which collective: the n-th that a rank issues in a group is
// the same as the n-th of every other member.

#ifndef SIM_ASTRA_COLLECTIVE_LOG_H_
#define SIM_ASTRA_COLLECTIVE_LOG_H_

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "sim/chakra/workload.h"

namespace strata::astra {

class CollectiveLog {
 public:
  // The workload must outlive it.
  explicit CollectiveLog(const chakra::Workload& workload)
      : workload_(workload) {}

  // Rank `rank` issues `node`. Returns INVALID_ARGUMENT, naming both nodes, if
  // another member's collective in its place is of another type, size or
  // dimensions.
  absl::Status Join(int rank, const chakra::TraceNode& node);

  // A member that has not yet joined what `rank` joined with `node`; nullopt if
  // all have.
  std::optional<int> MissingMember(int rank,
                                   const chakra::TraceNode& node) const;

 private:
  struct Entry {
    int rank = 0;  // Who was first.
    const chakra::TraceNode* node = nullptr;
    int64_t num_joined = 0;
  };

  struct Group {
    absl::flat_hash_map<int, int64_t> num_issued;  // [rank]
    std::deque<Entry> entries;  // Those that some member has yet to join.
    int64_t first = 0;          // Place of the first entry.
  };

  int NumMembers(int rank, int group) const;

  const chakra::Workload& workload_;
  std::map<int, Group> groups_;
};

}  // namespace strata::astra

#endif  // SIM_ASTRA_COLLECTIVE_LOG_H_
