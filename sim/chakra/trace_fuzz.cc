// A libFuzzer target: loads bytes as a trace and checks it as rank 0 of two.
// docs/chakra.md has the command.

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/base/check.h"
#include "sim/chakra/check.h"
#include "sim/chakra/trace_reader.h"
#include "sim/chakra/workload.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using strata::chakra::RankTrace;
  using strata::chakra::TraceReader;
  absl::StatusOr<TraceReader> reader = TraceReader::FromBytes(
      "fuzz", std::string(reinterpret_cast<const char*>(data), size));
  if (!reader.ok()) return 0;
  absl::StatusOr<RankTrace> trace =
      strata::chakra::LoadRank(*std::move(reader));
  if (!trace.ok()) {
    CHECK(!trace.status().message().empty());
    return 0;
  }
  strata::chakra::Workload workload;
  workload.ranks.push_back(*std::move(trace));
  workload.ranks.emplace_back();
  workload.groups[1] = {0, 1};
  const absl::Status status = strata::chakra::CheckWorkload(workload);
  CHECK(status.ok() || !status.message().empty());
  return 0;
}
