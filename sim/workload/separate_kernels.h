// Bytes that kernels move which frameworks launch apart, where the graph has
// one node or none.

#ifndef SIM_WORKLOAD_SEPARATE_KERNELS_H_
#define SIM_WORKLOAD_SEPARATE_KERNELS_H_

namespace strata::sim {

// Bytes a logit of a loss by separate kernels: to FP32 (2 + 4), maximum (4),
// subtraction (8), exponential (8), sum (4), division (8); gradient times its
// scale (8), to BF16 (6).
inline constexpr double kUnfusedLossForward = 38;
inline constexpr double kUnfusedLossBackward = 14;

// Bytes an element of an expert's product of adding its bias by separate
// kernels, expert by expert. To the inner width: sum (4), the experts' parts
// joined (4); gradient joined (4) and summed (2). Back, where the bias is
// weighed as its row is, in FP32: product (4), sum (10), joined (8), to BF16
// (6); gradient to FP32 (6), to BF16 (6), joined (4), times the weight (8),
// summed (4), times the bias (8), summed (4).
inline constexpr double kBiasUpForward = 8;
inline constexpr double kBiasUpBackward = 6;
inline constexpr double kBiasDownForward = 28;
inline constexpr double kBiasDownBackward = 40;

}  // namespace strata::sim

#endif  // SIM_WORKLOAD_SEPARATE_KERNELS_H_
