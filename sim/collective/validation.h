// Predictions of collectives held against measurements.
//
// Reads CSV files as NVIDIA's aiconfigurator keeps them, which are told apart
// by their columns:
//
//   NCCL      device, op_name (all_reduce, all_gather, reduce_scatter,
//             alltoall), nccl_dtype (half, int8), num_gpus, message_size
//             (elements of the full buffer), latency (ms). Beside
//             aiconfigurator's, nccl_benchmark has sendrecv, each rank's
//             message to the next, and alltoallv:0.53:0.47, with the share of
//             every rank's elements that each rank gets
//   DeepEP    device, node_num, hidden_size, num_token (of a rank), num_topk,
//             num_experts, and dispatch_avg_t_us, combine_avg_t_us (low
//             latency) or dispatch_sms, dispatch_transmit_us, combine_sms,
//             combine_transmit_us (normal)
//
// A DeepEP line makes two rows. The device names the preset: "NVIDIA H100 ..."
// is h100.

#ifndef SIM_COLLECTIVE_VALIDATION_H_
#define SIM_COLLECTIVE_VALIDATION_H_

#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "sim/cluster/cluster.h"
#include "sim/collective/collective.h"
#include "sim/collective/moe_dispatch.h"

namespace strata::sim {

// A measurement, and the request that it is one of.
struct MeasuredCollective {
  int line = 0;           // Of the file, from 1.
  std::string node_kind;  // A node's preset.
  std::string op;         // "all_reduce half", "DeepEP normal dispatch", ...
  int num_gpus = 0;
  double bytes = 0;  // Of the buffer, or of a rank's tokens.
  double measured_us = 0;

  CollectiveRequest collective;  // Where `is_moe` is false.
  // Its bytes_matrix, if it is an all-to-all-v: [num_gpus, num_gpus].
  std::vector<double> bytes_matrix;
  bool is_moe = false;
  bool is_combine = false;
  MoeDispatchRequest moe;
};

// The lines of a CSV, which may be any bytes.
//
// Returns INVALID_ARGUMENT, with the line's number and what was expected, if
// the columns are none of those above, or a field is not of its type.
absl::StatusOr<std::vector<MeasuredCollective>> ParseMeasurements(
    absl::string_view csv);

// The time that the model gives for a measurement, microseconds.
absl::StatusOr<double> PredictUs(const CollectiveModel& model,
                                 const MeasuredCollective& measured);

// As PredictUs for each, on the cluster that `cluster_of` makes for its kind of
// node and number of GPUs, or on the preset. An error names the line.
absl::StatusOr<std::vector<double>> PredictAllUs(
    absl::Span<const MeasuredCollective> measured,
    absl::FunctionRef<absl::StatusOr<Cluster>(const MeasuredCollective&)>
        cluster_of);
absl::StatusOr<std::vector<double>> PredictAllUs(
    absl::Span<const MeasuredCollective> measured);

struct ErrorSummary {
  std::string label;
  int count = 0;
  // Of |predicted / measured - 1|.
  double median = 0;
  double percentile_90 = 0;
  double largest = 0;
};

// All rows, then each value of `label_of`, sorted.
std::vector<ErrorSummary> SummarizeErrors(
    absl::Span<const MeasuredCollective> measured,
    absl::Span<const double> predicted_us,
    absl::FunctionRef<std::string(const MeasuredCollective&)> label_of);

// "1: below 64 KiB", "2: 64 KiB to 4 MiB", ...: they sort.
std::string SizeClass(double bytes);

}  // namespace strata::sim

#endif  // SIM_COLLECTIVE_VALIDATION_H_
