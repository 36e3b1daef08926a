// The best layout of a large model on 256 nodes: data and expert parallelism
// with experts placed once, against data, expert and pipeline parallelism with
// experts placed anew. Both by an exhaustive sweep over the same model,
// cluster, batch and recorded loads.

#ifndef TOOLS_SCORECARD_C1_LAYOUTS_H_
#define TOOLS_SCORECARD_C1_LAYOUTS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "sim/workload/expert_loads.h"
#include "sim/workload/sweep.h"

namespace strata {

// 99.0 B parameters, 8.5 B of them active: 48 layers of 64 experts, top-4.
inline constexpr char kC1Model[] =
    "layers=48 hidden=4096 heads=32 kv_heads=8 vocab=32000 experts=64 top_k=4 "
    "expert_ffn=2560";

// Where both sides train, and what is the same in their layouts.
struct LayoutsCluster {
  std::string name;
  std::string layout;
};

struct LayoutsOptions {
  std::string model = kC1Model;
  // 4.2 million tokens a step, as LLaMA's 65 B; networks of 400, 800 and 3,200
  // Gb/s a node. The promise is held against the first.
  std::vector<LayoutsCluster> clusters = {
      {"p4dex2048", "gbs2048,seq2048"},
      {"a3highx2048", "gbs2048,seq2048,deepep"},
      {"h100x2048", "gbs2048,seq2048,deepep"}};
  std::string framework = "megatron-core";
  int spare_per_rank = 1;
  int64_t timed_windows = 4;  // Of the trace, on which the best are timed.
  int64_t finalists = 8;      // Layouts a side that are.
};

struct LayoutsSide {
  sim::Sweep sweep;    // On the first of the timed windows.
  std::string layout;  // The best over all timed windows.
  std::string schedule;
  double seconds = 0;  // Of a step, mean over those windows.
  std::vector<double> seconds_of_windows;
  double seconds_even = 0;  // If loads were even.
};

struct LayoutsOutcome {
  std::string cluster;
  LayoutsSide two_d;    // Data + expert parallel, fixed placement.
  LayoutsSide three_d;  // Pipeline too, dynamic placement.
  // What each part of the difference is worth alone.
  LayoutsSide two_d_dynamic;
  LayoutsSide three_d_fixed;
  // Where data parallelism shards no more than gradients' sums and optimizer
  // (ZeRO 1): experts in order without spare slots, placed once, and ours.
  LayoutsSide two_d_zero1_plain;
  LayoutsSide two_d_zero1;
  LayoutsSide three_d_zero1;
};

// One outcome for each cluster. Returns NOT_FOUND if no layout of a side fits
// in memory, or the errors of the sweep and of the placements.
absl::StatusOr<std::vector<LayoutsOutcome>> CompareLayouts(
    const std::vector<sim::LoadWindow>& windows, const LayoutsOptions& options);

nlohmann::json ToJson(const LayoutsOutcome& outcome);

}  // namespace strata

#endif  // TOOLS_SCORECARD_C1_LAYOUTS_H_
