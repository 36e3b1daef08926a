#include "sim/astra/deadlock.h"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "sim/astra/collective_log.h"
#include "sim/chakra/chakra.pb.h"
#include "sim/chakra/workload.h"

namespace strata::astra {

absl::Status DeadlockError(
    const chakra::Workload& workload, const CollectiveLog& log, int64_t now_ns,
    const std::vector<std::optional<uint32_t>>& waits_in) {
  int rank = 0;
  while (!waits_in[rank].has_value()) ++rank;
  std::string text = absl::StrCat("deadlock at ", now_ns, " ns");
  std::vector<bool> seen(waits_in.size());
  while (true) {
    absl::StrAppend(&text, "; rank ", rank);
    if (seen[rank]) {
      absl::StrAppend(&text, ": see above");
      break;
    }
    seen[rank] = true;
    if (!waits_in[rank].has_value()) {
      absl::StrAppend(&text, " has finished");
      break;
    }
    const chakra::TraceNode& node = workload.ranks[rank].nodes[*waits_in[rank]];
    absl::StrAppend(&text, " waits in ", chakra::NodeName(node), " (",
                    workload.ranks[rank].path, ") ");
    if (node.type == ChakraProtoMsg::COMM_RECV_NODE) {
      rank = static_cast<int>(*node.comm_src);
      absl::StrAppend(&text, "for ", *node.comm_bytes, " bytes with tag ",
                      *node.comm_tag, " from rank ", rank);
      continue;
    }
    const std::optional<int> missing =
        node.type == ChakraProtoMsg::COMM_COLL_NODE
            ? log.MissingMember(rank, node)
            : std::nullopt;
    if (!missing.has_value()) {
      absl::StrAppend(&text,
                      "which all have joined and its algorithm cannot end");
      break;
    }
    rank = *missing;
    absl::StrAppend(&text, "for rank ", rank, " to join ",
                    chakra::CollectiveName(*node.comm_type), " of ",
                    *node.comm_bytes, " bytes");
  }
  return absl::AbortedError(text);
}

}  // namespace strata::astra
