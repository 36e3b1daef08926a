// What a routing trace says in few numbers. Definitions: docs/routing_trace.md,
// "Numbers that the summary gives"; core/parallel/load_stats.h.
//
//   ASSIGN_OR_RETURN(RoutingReader reader, RoutingReader::Open(path));
//   const RoutingSummary summary = Summarize(reader);

#ifndef CORE_TRACE_ROUTING_SUMMARY_H_
#define CORE_TRACE_ROUTING_SUMMARY_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "core/parallel/load_stats.h"
#include "core/trace/routing_layout.h"
#include "core/trace/routing_reader.h"
#include "core/trace/routing_trace.pb.h"
#include "nlohmann/json.hpp"

namespace strata {

// Total variation distances between windows' shares of load: 0 the same, 1
// disjoint. 0 where there are not two windows with load.
struct LoadDrift {
  double mean = 0;           // Over consecutive windows.
  double max = 0;            // Likewise.
  double first_to_last = 0;  // Windows.
};

// Of one gate, or of all gates averaged.
struct GateSummary {
  int64_t layer = 0;
  int64_t tier = 0;
  int64_t num_experts = 0;
  int64_t tokens = 0;       // That reached it.
  int64_t exits = 0;        // Of these, that left at it.
  double active_share = 0;  // Experts a token of the batch, over num_experts.
  double exit_rate = 0;     // exits / tokens
  LoadStats whole;          // Of the load of all records together.
  LoadStats per_record;     // Mean over records.
  LoadDrift drift;
};

// Some records in a row.
struct WindowSummary {
  int64_t first_step = 0;
  int64_t num_records = 0;
  LoadStats load;  // Of the window's load, gates averaged.
};

struct RoutingSummary {
  int64_t num_records = 0;
  int64_t first_step = 0;
  int64_t last_step = 0;
  int64_t tokens = 0;  // Of all batches.
  std::vector<GateSummary> gates;
  // Each gate with load counts alike; counts are sums, layer and tier mean
  // nothing.
  GateSummary mean;
  std::vector<double> tier_tokens;  // Share of tokens that reach each tier,
                                    // layers averaged.
  std::vector<WindowSummary> windows;
  absl::Status damage;  // Why reading stopped before the end mark; else OK.
};

// Gathers records; Finish() at any time. Memory does not grow with them.
class RoutingSummarizer {
 public:
  explicit RoutingSummarizer(const RoutingLayout& layout);

  // A record that CheckRecord takes.
  void Add(const RoutingRecord& record);

  RoutingSummary Finish() const;

 private:
  struct Window {
    int64_t first_step = 0;
    int64_t num_records = 0;
    std::vector<int64_t> load;  // [all gates' experts]
  };
  struct Gate {
    int64_t first_expert = 0;  // In Window::load.
    int64_t tokens = 0;
    int64_t exits = 0;
    LoadStatsMean per_record;
  };

  // Windows as they are summed up: a last one that is not full joins the one
  // before.
  std::vector<Window> WholeWindows() const;
  absl::Span<const int64_t> Load(const Window& window, size_t gate) const;
  GateSummary Summarize(size_t gate, const std::vector<Window>& windows,
                        int64_t batch_tokens) const;

  RoutingLayout layout_;
  std::vector<Gate> gates_;
  std::vector<Window> windows_;
  std::vector<int64_t> load_;  // Of the record at hand, like Window::load.
  int64_t records_per_window_ = 1;
  int64_t num_records_ = 0;
  int64_t first_step_ = 0;
  int64_t last_step_ = 0;
  int64_t tokens_ = 0;
};

// Of all records that `reader` still has, up to the end or the damage.
RoutingSummary Summarize(RoutingReader& reader);

// What `strata trace --json` prints of either.
nlohmann::json ToJson(const RoutingTraceHeader& header);
nlohmann::json ToJson(const RoutingSummary& summary);

}  // namespace strata

#endif  // CORE_TRACE_ROUTING_SUMMARY_H_
