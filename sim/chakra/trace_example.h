// Traces that tests and benchmarks make up.

#ifndef SIM_CHAKRA_TRACE_EXAMPLE_H_
#define SIM_CHAKRA_TRACE_EXAMPLE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "sim/chakra/chakra.pb.h"
#include "sim/chakra/workload.h"

namespace strata::chakra {

using Nodes = std::vector<ChakraProtoMsg::Node>;

// Nodes as the field's generators write them; `deps` are data dependencies. The
// name is the kind and the id: "COMP3".
ChakraProtoMsg::Node ComputeNode(uint64_t id, uint64_t duration_us,
                                 const std::vector<uint64_t>& deps = {});
ChakraProtoMsg::Node CollectiveNode(uint64_t id,
                                    ChakraProtoMsg::CollectiveCommType type,
                                    int64_t bytes,
                                    const std::vector<uint64_t>& deps = {},
                                    const std::string& group = "");
ChakraProtoMsg::Node SendNode(uint64_t id, int src, int dst, int tag,
                              int64_t bytes,
                              const std::vector<uint64_t>& deps = {});
ChakraProtoMsg::Node RecvNode(uint64_t id, int src, int dst, int tag,
                              int64_t bytes,
                              const std::vector<uint64_t>& deps = {});

// Writes and reads the traces, in memory; rank r is called "t.<r>.et".
absl::StatusOr<Workload> ToWorkload(const std::vector<Nodes>& ranks);

// A workload of one collective, the same on all ranks.
absl::StatusOr<Workload> CollectiveWorkload(
    int num_ranks, ChakraProtoMsg::CollectiveCommType type, int64_t bytes);

}  // namespace strata::chakra

#endif  // SIM_CHAKRA_TRACE_EXAMPLE_H_
