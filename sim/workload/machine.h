// What a step has to know of a cluster's GPUs.

#ifndef SIM_WORKLOAD_MACHINE_H_
#define SIM_WORKLOAD_MACHINE_H_

#include <map>
#include <string>
#include <vector>

namespace strata::sim {

struct Machine {
  std::string name;
  std::string kind;  // Of its nodes: "h800". See Software.
  std::string gpu;   // "H800"
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

// What training shows of a kind of machine beyond its data sheet, its kernels
// measured alone and its collectives measured alone. One set for a kind, for
// all models, layouts and frameworks; sim/validation/constants.textproto has
// the values, each with its meaning and origin.
struct TrainingConstants {
  // Share of their rate alone at which products run in a step of seconds: the
  // power limit lowers the clock.
  double product_share = 1;
  // SMs that a collective takes from the kernels which it overlaps.
  double collective_sms = 20;
  // Share of TP's communication that is hidden where products are cut into
  // pieces to overlap it.
  double tensor_overlap_share = 1;
  // Host time of one node of the graph: its kernels' launches, checks, counts
  // read back. A stage whose kernels are shorter waits for the host.
  double host_seconds_per_node = 0;
  // Host time of a piece of rows that is handled apart: what an expert has from
  // a rank, where an all-to-all brings rows rank by rank and they are put into
  // the experts' order; an expert's rows where its bias is added.
  double host_seconds_per_piece = 0;
  // The host waits for the counts of experts' rows, once a dispatch forward,
  // and the GPU then for what the host launches with them.
  double row_count_seconds = 0;
  // Host time between steps: data, gradient norm, launches of the optimizer.
  double host_seconds_per_step = 0;
  // Share of its peak at which the optimizer streams through memory.
  double optimizer_memory_share = 0.8;
  // Where kernels write rows into other GPUs' memory: the rate at which a GPU
  // sends or receives them, of the busiest. 0: all-to-alls of the library.
  double row_exchange_gb_per_s = 0;
  // And what an exchange, a dispatch, a combine or the plan of both, takes
  // without any rows: launches, and flags that are waited for.
  double row_exchange_seconds = 0;
  // Bytes of memory that an element of such an exchange takes after it has
  // come: the window read, rows written in their order.
  double row_exchange_bytes = 4;
  // 1: of a pipeline's stage the gradients of its input are a program of their
  // own, and leave before those of its weights are made, whatever the schedule.
  double splits_backward = 0;
  // Where there are several stages, what a program of one takes besides its
  // kernels: a forward, the gradients of its input, those of its weights.
  double program_seconds = 0;
  // Bytes of an element that goes from stage to stage, and what such a message
  // takes besides the link.
  double hop_element_bytes = 2;
  double hop_seconds = 0;
  // Of one, of as many bytes on the busiest rank's link.
  double RowExchangeSeconds(double bytes) const {
    return row_exchange_seconds + bytes / (1e9 * row_exchange_gb_per_s);
  }
  // Median of the relative errors of steps that no fit has seen.
  double step_error = 0.1;
};

// Software on any kind of machine.
struct Software {
  std::string framework = "megatron-core";
  // Share of the time that kernels run at their pace: gaps between them, and
  // what the graph does not have.
  double efficiency = 1;
  std::map<std::string, TrainingConstants> constants;  // By kind of machine.
  TrainingConstants unmeasured;                        // Of all other kinds.

  TrainingConstants On(const std::string& kind) const {
    const auto it = constants.find(kind);
    return it == constants.end() ? unmeasured : it->second;
  }
};

}  // namespace strata::sim

#endif  // SIM_WORKLOAD_MACHINE_H_
