// Chakra traces: the file, its nodes, and what they say of each other.

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "core/base/check.h"
#include "core/testing/fuzz_target.h"
#include "sim/chakra/check.h"
#include "sim/chakra/trace_example.h"
#include "sim/chakra/trace_reader.h"
#include "sim/chakra/trace_writer.h"
#include "sim/chakra/workload.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace strata::chakra;
  absl::StatusOr<TraceReader> reader = TraceReader::FromBytes(
      "x.et", std::string(reinterpret_cast<const char*>(data), size));
  if (!reader.ok()) {
    CHECK(absl::StartsWith(reader.status().message(), "x.et, byte "))
        << reader.status();
    return 0;
  }
  absl::StatusOr<RankTrace> trace = LoadRank(*std::move(reader));
  if (!trace.ok()) {
    CHECK(absl::StartsWith(trace.status().message(), "x.et, byte "))
        << trace.status();
    return 0;
  }
  for (size_t i = 0; i < trace->nodes.size(); ++i) {
    for (const uint32_t parent : trace->nodes[i].parents) {
      CHECK(parent < trace->nodes.size()) << parent;
    }
  }
  Workload workload;
  workload.ranks.push_back(*trace);
  workload.ranks.push_back(*std::move(trace));
  const absl::Status status = CheckWorkload(workload);
  CHECK(status.ok() || absl::IsInvalidArgument(status)) << status;
  return 0;
}

namespace strata {

std::vector<std::string> FuzzSeeds() {
  using namespace strata::chakra;
  Nodes nodes;
  for (uint64_t i = 0; i < 4; ++i) {
    nodes.push_back(ComputeNode(
        4 * i, 10,
        i > 0 ? std::vector<uint64_t>{4 * i - 1} : std::vector<uint64_t>{}));
    nodes.push_back(
        CollectiveNode(4 * i + 1, ChakraProtoMsg::ALL_GATHER, 1024, {4 * i}));
    nodes.push_back(SendNode(4 * i + 2, 0, 1, static_cast<int>(i), 8));
    nodes.push_back(RecvNode(4 * i + 3, 1, 0, static_cast<int>(i), 8));
  }
  return {SerializeTrace({}, nodes), SerializeTrace({}, {ComputeNode(0, 1)}),
          SerializeTrace({}, {})};
}

}  // namespace strata
