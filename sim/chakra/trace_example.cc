#include "sim/chakra/trace_example.h"

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "sim/chakra/attributes.h"
#include "sim/chakra/chakra.pb.h"
#include "sim/chakra/trace_reader.h"
#include "sim/chakra/trace_writer.h"
#include "sim/chakra/workload.h"

namespace strata::chakra {
namespace {

using ::ChakraProtoMsg::Node;

Node MakeNode(uint64_t id, const char* kind, ChakraProtoMsg::NodeType type,
              const std::vector<uint64_t>& deps) {
  Node node;
  node.set_id(id);
  node.set_name(absl::StrCat(kind, id));
  node.set_type(type);
  for (const uint64_t dep : deps) node.add_data_deps(dep);
  AddBool(node, "is_cpu_op", false);
  return node;
}

Node PointToPoint(Node node, int src, int dst, int tag, int64_t bytes) {
  AddInt64(node, "comm_size", bytes);
  AddInt32(node, "comm_src", src);
  AddInt32(node, "comm_dst", dst);
  AddInt32(node, "comm_tag", tag);
  return node;
}

}  // namespace

Node ComputeNode(uint64_t id, uint64_t duration_us,
                 const std::vector<uint64_t>& deps) {
  Node node = MakeNode(id, "COMP", ChakraProtoMsg::COMP_NODE, deps);
  node.set_duration_micros(duration_us);
  return node;
}

Node CollectiveNode(uint64_t id, ChakraProtoMsg::CollectiveCommType type,
                    int64_t bytes, const std::vector<uint64_t>& deps,
                    const std::string& group) {
  Node node = MakeNode(id, "COLL", ChakraProtoMsg::COMM_COLL_NODE, deps);
  AddInt64(node, "comm_type", type);
  AddInt64(node, "comm_size", bytes);
  if (!group.empty()) AddString(node, "pg_name", group);
  return node;
}

Node SendNode(uint64_t id, int src, int dst, int tag, int64_t bytes,
              const std::vector<uint64_t>& deps) {
  return PointToPoint(
      MakeNode(id, "SEND", ChakraProtoMsg::COMM_SEND_NODE, deps), src, dst, tag,
      bytes);
}

Node RecvNode(uint64_t id, int src, int dst, int tag, int64_t bytes,
              const std::vector<uint64_t>& deps) {
  return PointToPoint(
      MakeNode(id, "RECV", ChakraProtoMsg::COMM_RECV_NODE, deps), src, dst, tag,
      bytes);
}

absl::StatusOr<Workload> ToWorkload(const std::vector<Nodes>& ranks) {
  Workload workload;
  for (size_t rank = 0; rank < ranks.size(); ++rank) {
    ASSIGN_OR_RETURN(
        TraceReader reader,
        TraceReader::FromBytes(TracePath("t", static_cast<int>(rank)),
                               SerializeTrace({}, ranks[rank])));
    ASSIGN_OR_RETURN(RankTrace trace, LoadRank(std::move(reader)));
    workload.ranks.push_back(std::move(trace));
  }
  return workload;
}

absl::StatusOr<Workload> CollectiveWorkload(
    int num_ranks, ChakraProtoMsg::CollectiveCommType type, int64_t bytes) {
  return ToWorkload(
      std::vector<Nodes>(num_ranks, {CollectiveNode(0, type, bytes)}));
}

}  // namespace strata::chakra
