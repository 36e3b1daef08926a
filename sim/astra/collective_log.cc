#include "sim/astra/collective_log.h"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "sim/chakra/workload.h"

namespace strata::astra {
namespace {

using ::strata::chakra::TraceNode;

bool AreAlike(const TraceNode& a, const TraceNode& b) {
  return a.comm_type == b.comm_type && a.comm_bytes == b.comm_bytes &&
         a.involved_dims == b.involved_dims;
}

std::string Describe(const chakra::Workload& workload, int rank,
                     const TraceNode& node) {
  return absl::StrCat("rank ", rank, ", ", chakra::NodeName(node), " (",
                      chakra::CollectiveName(*node.comm_type), " of ",
                      *node.comm_bytes, " bytes, ", workload.ranks[rank].path,
                      ")");
}

}  // namespace

int CollectiveLog::NumMembers(int rank, int group) const {
  const std::vector<int>* const members = workload_.FindGroup(rank, group);
  return static_cast<int>(members != nullptr ? members->size()
                                             : workload_.ranks.size());
}

absl::Status CollectiveLog::Join(int rank, const TraceNode& node) {
  Group& group = groups_[node.group];
  const int64_t place = group.num_issued[rank]++;
  // A member's place is never before the first entry, since it has not joined.
  if (place == group.first + static_cast<int64_t>(group.entries.size())) {
    group.entries.push_back({rank, &node, 1});
  } else {
    Entry& entry = group.entries[place - group.first];
    if (!AreAlike(*entry.node, node)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "collective ", place + 1, " of ",
          node.group == 0 ? "all ranks" : absl::StrCat("group ", node.group),
          " differs: ", Describe(workload_, rank, node), " against ",
          Describe(workload_, entry.rank, *entry.node),
          "; want the same order on all"));
    }
    ++entry.num_joined;
  }
  while (!group.entries.empty() &&
         group.entries.front().num_joined == NumMembers(rank, node.group)) {
    group.entries.pop_front();
    ++group.first;
  }
  return absl::OkStatus();
}

std::optional<int> CollectiveLog::MissingMember(int rank,
                                                const TraceNode& node) const {
  const auto found = groups_.find(node.group);
  if (found == groups_.end()) return std::nullopt;
  const Group& group = found->second;
  const auto own = group.num_issued.find(rank);
  if (own == group.num_issued.end()) return std::nullopt;
  const std::vector<int>* const members = workload_.FindGroup(rank, node.group);
  for (int i = 0; i < NumMembers(rank, node.group); ++i) {
    const int member = members != nullptr ? (*members)[i] : i;
    const auto other = group.num_issued.find(member);
    if (other == group.num_issued.end() || other->second < own->second) {
      return member;
    }
  }
  return std::nullopt;
}

}  // namespace strata::astra
