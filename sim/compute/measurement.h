// Measured kernel times, from CSV files as benchmarks write them.
//
// A header names the columns; their order is free and further ones are ignored.
// `latency` is in milliseconds. Which columns there are tells what was
// measured:
//
//   gemm_dtype, m, n, k                                          products
//   moe_dtype, num_tokens, hidden_size, inter_size, topk, num_experts,
//     moe_tp_size, moe_ep_size, distribution                     MoE layers
//   batch_size, isl, num_heads, num_key_value_heads, head_dim, window_size,
//     kv_cache_dtype, step                                       attention
//   mla_dtype, batch_size, isl, num_heads, kv_cache_dtype, step  latent
//     attention; for both, step 0 is a prefill of isl tokens, and another one
//     decodes a token after isl + step - 1
//   kernel_source                                                all, optional
//
// dtypes are bfloat16, fp8, fp8_block, int4_wo; a distribution is "balanced" or
// "power_law_<exponent>". Loads of power laws were drawn at random, so we take
// the mean of a few draws of our own. Rows are in the order of the benchmark's
// log, which tells layers that ran untuned (sim/compute/tuning_files.h).

#ifndef SIM_COMPUTE_MEASUREMENT_H_
#define SIM_COMPUTE_MEASUREMENT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "sim/compute/calibration.pb.h"
#include "sim/compute/device.h"
#include "sim/compute/fitted_kernel.h"

namespace strata {

struct Measurement {
  KernelShape shape;
  std::string kernel_source;
  std::string precision;  // as in KernelFit
  std::string variant;
  double us = 0;
  uint64_t hash = 0;  // of the row's text
};

struct Measurements {
  std::vector<Measurement> rows;
  int64_t num_empty = 0;  // rows without work (m = 0), left out
};

// Facts for rows of `device`, by name: those of a kernel source, or none.
MoeSoftware SoftwareOf(const SoftwareFacts& facts, absl::string_view source,
                       absl::string_view device);

struct MeasuredOn {
  std::string name;  // "h100"
  Device device;
  SoftwareFacts facts;
};

// Reads a CSV file; one whose name ends in .gz is decompressed.
//
// Returns INVALID_ARGUMENT, with the line, for columns that are none of the
// above, a cell that is not a number in range, or a time that is not positive;
// RESOURCE_EXHAUSTED above 1 GiB of text; DATA_LOSS for a damaged .gz.
absl::StatusOr<Measurements> ReadMeasurements(const std::string& path,
                                              const MeasuredOn& on);

// The same of a text; `name` stands for the file in messages.
absl::StatusOr<Measurements> ParseMeasurements(absl::string_view text,
                                               absl::string_view name,
                                               const MeasuredOn& on);

}  // namespace strata

#endif  // SIM_COMPUTE_MEASUREMENT_H_
