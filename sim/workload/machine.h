// What a step has to know of a cluster's GPUs.

#ifndef SIM_WORKLOAD_MACHINE_H_
#define SIM_WORKLOAD_MACHINE_H_

#include <string>
#include <vector>

namespace strata::sim {

struct Machine {
  std::string name;
  std::string gpu;  // "H800"
  int num_gpus = 0;
  int gpus_per_node = 8;
  double bf16_flops = 0;  // A second, dense: what utilisation is a share of.
  double fp8_flops = 0;
  double memory_bytes = 0;
  double memory_bytes_per_second = 0;
  double num_sms = 0;
  double watts = 0;              // Of the whole cluster at full load.
  double dollars_per_hour = 0;   // Likewise.
  std::vector<double> slowdown;  // [num_gpus], or empty: 1.
};

// What software makes of a machine, for all models and layouts: see
// docs/simulator.md for each one's meaning and sim/validation for its fit.
struct Software {
  std::string framework = "megatron-core";
  // Share of the time that kernels run at the pace at which they were measured
  // alone: clocks under load, launches, gaps, and what the graph does not have.
  double efficiency = 1;
  // Host time of one node of the graph: its kernels' launches, checks, counts
  // read back. A stage whose kernels are shorter waits for the host.
  double host_seconds_per_node = 0;
  // SMs that DeepEP takes from products which overlap it.
  double dispatch_sms = 20;
  // Share of its peak at which the optimizer streams through memory.
  double optimizer_memory_share = 0.8;
};

}  // namespace strata::sim

#endif  // SIM_WORKLOAD_MACHINE_H_
