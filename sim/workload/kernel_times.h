// What one kernel takes: the question that the workload asks of a GPU's model.
//
// A Kernel is sizes, as one rank runs it. KernelTimes answers in seconds;
// CalibratedKernels (calibrated_kernels.h) from measured kernels,
// RooflineKernels from a GPU's data sheet alone.

#ifndef SIM_WORKLOAD_KERNEL_TIMES_H_
#define SIM_WORKLOAD_KERNEL_TIMES_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace strata::sim {

// Where time goes; the rows of a breakdown.
enum class Family {
  kMatMul,       // Dense products.
  kExperts,      // Grouped products.
  kAttention,    // Scores and values.
  kElementwise,  // Norms, activations, gates, loss: what moves bytes.
};
inline constexpr int kNumFamilies = 4;
absl::string_view Name(Family family);

struct Kernel {
  enum class Kind {
    kMatMul,             // c [m, n] = a [m, k] b [k, n]
    kGroupedMatMul,      // The same for each local expert, m its rows.
    kGroupedWeightGrad,  // dw [n, k] of each expert from its rows.
    kAttention,          // Causal, whole sequences.
    kLatentAttention,    // MLA, expanded.
    kDecodeAttention,    // A token a sequence against a KV cache.
    kLatentDecode,       // MLA, absorbed.
    kElementwise,
  };
  Kind kind = Kind::kElementwise;
  Family family = Family::kElementwise;

  // Products. Grouped: m is the sum of `expert_rows`.
  double m = 0;
  double n = 0;
  double k = 0;
  bool fp8 = false;
  absl::Span<const double> expert_rows;  // [local experts]

  // Attention: sequences, tokens of each (of the cache, when decoding), heads.
  int64_t batch = 0;
  int64_t sequence = 0;
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;  // Latent: nope + rope.
  int64_t value_dim = 0;
  int64_t rope_dim = 0;  // Latent only.
  int64_t latent_dim = 0;
  bool backward = false;

  // Elementwise.
  double bytes = 0;

  double Flops() const;  // Of the arithmetic; causal attention half.
};

struct KernelTime {
  double seconds = 0;
  double error = 0;  // Relative, one standard deviation of the calibration.
  bool inside_range = true;
};

class KernelTimes {
 public:
  virtual ~KernelTimes() = default;
  virtual absl::StatusOr<KernelTime> Of(const Kernel& kernel) const = 0;
};

// The larger of arithmetic at the peak rate and bytes at the memory's, with
// each at a stated share of its peak, and a launch.
class RooflineKernels : public KernelTimes {
 public:
  struct Rates {
    double bf16_flops = 0;  // A second.
    double fp8_flops = 0;   // 0: none; bf16's then.
    double memory_bytes = 0;
    double flops_share = 1;
    double memory_share = 1;
    double launch_seconds = 0;
  };
  explicit RooflineKernels(const Rates& rates) : rates_(rates) {}

  absl::StatusOr<KernelTime> Of(const Kernel& kernel) const override;

 private:
  Rates rates_;
};

// Bytes that the kernel reads and writes, each operand once.
double BytesMoved(const Kernel& kernel);

}  // namespace strata::sim

#endif  // SIM_WORKLOAD_KERNEL_TIMES_H_
