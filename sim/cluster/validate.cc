#include "sim/cluster/validate.h"

#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "core/base/status_macros.h"
#include "sim/cluster/cluster.h"
#include "sim/cluster/cluster.pb.h"

namespace strata::sim {
namespace {

// Wide enough for any machine, and narrow enough that no time or sum of them
// leaves its type.
constexpr double kMaxRate = 1e9;  // GB/s, TFLOP/s.
constexpr double kMinRate = 1e-6;
constexpr double kMaxMicroseconds = 1e9;  // A quarter of an hour.
constexpr double kMaxFactor = 1e6;

absl::Status InRange(absl::string_view path, absl::string_view field,
                     double value, double least, double most) {
  // Written so that NaN fails.
  if (value >= least && value <= most) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrFormat(
      "%s.%s is %g; want %g to %g", path, field, value, least, most));
}

absl::Status Rate(absl::string_view path, absl::string_view field,
                  double value) {
  return InRange(path, field, value, kMinRate, kMaxRate);
}

absl::Status RateOrNone(absl::string_view path, absl::string_view field,
                        double value) {
  return InRange(path, field, value, 0, kMaxRate);
}

absl::Status Microseconds(absl::string_view path, absl::string_view field,
                          double value) {
  return InRange(path, field, value, 0, kMaxMicroseconds);
}

absl::Status Share(absl::string_view path, absl::string_view field,
                   double value) {
  return InRange(path, field, value, 1e-4, 1);
}

absl::Status ValidateGpu(const std::string& path, const GpuConfig& gpu) {
  RETURN_IF_ERROR(RateOrNone(path, "fp32_tflops", gpu.fp32_tflops()));
  RETURN_IF_ERROR(RateOrNone(path, "tf32_tflops", gpu.tf32_tflops()));
  RETURN_IF_ERROR(RateOrNone(path, "bf16_tflops", gpu.bf16_tflops()));
  RETURN_IF_ERROR(RateOrNone(path, "fp8_tflops", gpu.fp8_tflops()));
  RETURN_IF_ERROR(RateOrNone(path, "int8_tops", gpu.int8_tops()));
  RETURN_IF_ERROR(RateOrNone(path, "fp4_tflops", gpu.fp4_tflops()));
  RETURN_IF_ERROR(Rate(path, "memory_gib", gpu.memory_gib()));
  RETURN_IF_ERROR(Rate(path, "memory_gb_per_s", gpu.memory_gb_per_s()));
  RETURN_IF_ERROR(InRange(path, "num_sms", gpu.num_sms(), 0, 1e6));
  RETURN_IF_ERROR(InRange(path, "watts", gpu.watts(), 0, 1e6));
  RETURN_IF_ERROR(RateOrNone(path, "l2_mib", gpu.l2_mib()));
  return InRange(path, "dollars_per_hour", gpu.dollars_per_hour(), 0, 1e6);
}

absl::Status ValidateProtocol(const std::string& path,
                              const NcclConstants::Protocol& protocol) {
  RETURN_IF_ERROR(Microseconds(path, "base_us", protocol.base_us()));
  RETURN_IF_ERROR(Microseconds(path, "threads_us", protocol.threads_us()));
  RETURN_IF_ERROR(Microseconds(path, "step_us", protocol.step_us()));
  RETURN_IF_ERROR(Microseconds(path, "net_step_us", protocol.net_step_us()));
  RETURN_IF_ERROR(Microseconds(path, "tree_step_us", protocol.tree_step_us()));
  RETURN_IF_ERROR(Share(path, "efficiency", protocol.efficiency()));
  RETURN_IF_ERROR(Share(path, "net_efficiency", protocol.net_efficiency()));
  return RateOrNone(path, "copy_gb_per_s", protocol.copy_gb_per_s());
}

absl::Status ValidateNccl(const std::string& path, const NcclConstants& nccl,
                          bool in_switch) {
  RETURN_IF_ERROR(Microseconds(path, "launch_us", nccl.launch_us()));
  RETURN_IF_ERROR(ValidateProtocol(path + ".ll", nccl.ll()));
  RETURN_IF_ERROR(ValidateProtocol(path + ".ll128", nccl.ll128()));
  RETURN_IF_ERROR(ValidateProtocol(path + ".simple", nccl.simple()));
  RETURN_IF_ERROR(
      RateOrNone(path, "channel_copy_gb_per_s", nccl.channel_copy_gb_per_s()));
  if (nccl.cached_speedup() != 0) {
    RETURN_IF_ERROR(
        InRange(path, "cached_speedup", nccl.cached_speedup(), 1, 1e3));
  }
  const NcclConstants::PointToPoint& p2p = nccl.point_to_point();
  const std::string p2p_path = path + ".point_to_point";
  RETURN_IF_ERROR(Microseconds(p2p_path, "launch_us", p2p.launch_us()));
  RETURN_IF_ERROR(Microseconds(p2p_path, "per_peer_us", p2p.per_peer_us()));
  RETURN_IF_ERROR(Microseconds(p2p_path, "net_us", p2p.net_us()));
  RETURN_IF_ERROR(Rate(p2p_path, "ll_gb_per_s", p2p.ll_gb_per_s()));
  RETURN_IF_ERROR(Microseconds(p2p_path, "simple_us", p2p.simple_us()));
  RETURN_IF_ERROR(RateOrNone(p2p_path, "ll_part_kib", p2p.ll_part_kib()));
  RETURN_IF_ERROR(
      RateOrNone(p2p_path, "channel_gb_per_s", p2p.channel_gb_per_s()));
  RETURN_IF_ERROR(
      InRange(p2p_path, "packet_overhead", p2p.packet_overhead(), 0, 1));
  RETURN_IF_ERROR(Share(p2p_path, "efficiency", p2p.efficiency()));
  RETURN_IF_ERROR(Share(p2p_path, "net_efficiency", p2p.net_efficiency()));
  if (!in_switch) return absl::OkStatus();
  RETURN_IF_ERROR(Microseconds(path + ".in_switch", "launch_us",
                               nccl.in_switch().launch_us()));
  return Share(path + ".in_switch", "efficiency",
               nccl.in_switch().efficiency());
}

absl::Status ValidateTuner(const std::string& path, const NcclTuner& tuner) {
  RETURN_IF_ERROR(InRange(path, "channels", tuner.channels(), 1, 64));
  RETURN_IF_ERROR(Rate(path, "ring_gb_per_s", tuner.ring_gb_per_s()));
  return Rate(path, "ll_gb_per_s", tuner.ll_gb_per_s());
}

absl::Status ValidateKernel(const std::string& path,
                            const DeepEpConstants::Kernel& kernel) {
  RETURN_IF_ERROR(Microseconds(path, "launch_us", kernel.launch_us()));
  RETURN_IF_ERROR(Microseconds(path, "net_us", kernel.net_us()));
  RETURN_IF_ERROR(InRange(path, "latency_ns_per_element",
                          kernel.latency_ns_per_element(), 0, 1e6));
  RETURN_IF_ERROR(InRange(path, "launch_ns_per_expert",
                          kernel.launch_ns_per_expert(), 0, 1e6));
  RETURN_IF_ERROR(RateOrNone(path, "sm_gb_per_s", kernel.sm_gb_per_s()));
  RETURN_IF_ERROR(InRange(path, "read_share", kernel.read_share(), 0, 1e3));
  RETURN_IF_ERROR(Share(path, "efficiency", kernel.efficiency()));
  RETURN_IF_ERROR(Share(path, "net_efficiency", kernel.net_efficiency()));
  return Microseconds(path, "token_us", kernel.token_us());
}

absl::Status ValidateDeepEp(const std::string& path,
                            const DeepEpConstants& deep_ep) {
  RETURN_IF_ERROR(ValidateKernel(path + ".dispatch", deep_ep.dispatch()));
  RETURN_IF_ERROR(ValidateKernel(path + ".combine", deep_ep.combine()));
  RETURN_IF_ERROR(ValidateKernel(path + ".low_latency_dispatch",
                                 deep_ep.low_latency_dispatch()));
  RETURN_IF_ERROR(ValidateKernel(path + ".low_latency_combine",
                                 deep_ep.low_latency_combine()));
  return InRange(path, "saturating_sms", deep_ep.saturating_sms(), 1, 1e4);
}

absl::Status ValidateNode(const std::string& path, const NodeConfig& node) {
  RETURN_IF_ERROR(ValidateGpu(path + ".gpu", node.gpu()));
  RETURN_IF_ERROR(InRange(path, "num_gpus", node.num_gpus(), 1, 1024));
  const std::string scale_up = path + ".scale_up";
  RETURN_IF_ERROR(Rate(scale_up, "gb_per_s", node.scale_up().gb_per_s()));
  RETURN_IF_ERROR(
      Microseconds(scale_up, "latency_us", node.scale_up().latency_us()));
  RETURN_IF_ERROR(InRange(scale_up, "min_gpus_for_in_switch_reduction",
                          node.scale_up().min_gpus_for_in_switch_reduction(), 0,
                          1024));
  RETURN_IF_ERROR(InRange(path, "nic.count", node.nic().count(), 1, 1024));
  RETURN_IF_ERROR(Rate(path, "nic.gb_per_s", node.nic().gb_per_s()));
  RETURN_IF_ERROR(
      Microseconds(path, "nic.latency_us", node.nic().latency_us()));
  RETURN_IF_ERROR(
      ValidateNccl(path + ".nccl", node.nccl(),
                   node.scale_up().min_gpus_for_in_switch_reduction() > 0));
  if (node.has_tuner()) {
    RETURN_IF_ERROR(ValidateTuner(path + ".tuner", node.tuner()));
  }
  if (node.has_deep_ep()) {
    RETURN_IF_ERROR(ValidateDeepEp(path + ".deep_ep", node.deep_ep()));
  }
  return InRange(path, "host_watts", node.host_watts(), 0, 1e6);
}

absl::Status ValidateDimension(const std::string& path,
                               const DimensionConfig& dimension) {
  if (!DimensionConfig::Kind_IsValid(dimension.kind())) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s.kind is %d; want SWITCH, RING, MESH or "
                        "FULLY_CONNECTED",
                        path, dimension.kind()));
  }
  RETURN_IF_ERROR(InRange(path, "size", dimension.size(), 1, kMaxRanks));
  RETURN_IF_ERROR(Rate(path, "gb_per_s", dimension.gb_per_s()));
  return Microseconds(path, "latency_us", dimension.latency_us());
}

}  // namespace

absl::Status ValidateFields(const ClusterConfig& config) {
  for (int i = 0; i < config.kind_size(); ++i) {
    RETURN_IF_ERROR(
        ValidateNode(absl::StrCat("kind[", i, "]"), config.kind(i)));
  }
  for (int i = 0; i < config.nodes_size(); ++i) {
    const std::string path = absl::StrCat("nodes[", i, "]");
    RETURN_IF_ERROR(
        InRange(path, "count", config.nodes(i).count(), 1, kMaxRanks));
    RETURN_IF_ERROR(InRange(path, "gpus", config.nodes(i).gpus(), 0, 1024));
  }
  for (int i = 0; i < config.dimension_size(); ++i) {
    RETURN_IF_ERROR(ValidateDimension(absl::StrCat("dimension[", i, "]"),
                                      config.dimension(i)));
  }
  for (int i = 0; i < config.slowdown_size(); ++i) {
    RETURN_IF_ERROR(InRange(absl::StrCat("slowdown[", i, "]"), "factor",
                            config.slowdown(i).factor(), 1, kMaxFactor));
  }
  if (!config.has_fabric()) return absl::OkStatus();
  if (!FabricConfig::Kind_IsValid(config.fabric().kind())) {
    return absl::InvalidArgumentError(
        absl::StrFormat("fabric.kind is %d; want RAIL_OPTIMISED or FAT_TREE",
                        config.fabric().kind()));
  }
  RETURN_IF_ERROR(InRange("fabric", "nodes_per_leaf",
                          config.fabric().nodes_per_leaf(), 1, kMaxRanks));
  RETURN_IF_ERROR(InRange("fabric", "oversubscription",
                          config.fabric().oversubscription(), 1, kMaxFactor));
  return Microseconds("fabric", "switch_latency_us",
                      config.fabric().switch_latency_us());
}

}  // namespace strata::sim
