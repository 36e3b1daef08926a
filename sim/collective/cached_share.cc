#include "sim/collective/cached_share.h"

#include <cmath>

#include "sim/cluster/cluster.pb.h"

namespace strata::sim {
namespace {

constexpr double kMebibyte = 1 << 20;
// Of the L2, what such calls find again: chosen. Its halves keep copies of
// what is at home in the other.
constexpr double kUsable = 0.6;
constexpr double kClose = 1e-6;
constexpr int kMostSteps = 40;

}  // namespace

double CachedShare(const GpuConfig& gpu, double touched) {
  const double cache = kUsable * gpu.l2_mib() * kMebibyte;
  if (cache <= 0) return 0;
  const double load = touched / cache;
  if (load <= 1) return 1;
  // Newton's steps from 0 come to the root below 1 and never pass it.
  double share = 0;
  for (int i = 0; i < kMostSteps; ++i) {
    const double survives = std::exp(-(1 - share) * load);
    const double step = (survives - share) / (1 - load * survives);
    share += step;
    if (step < kClose) break;
  }
  return share;
}

double ReadingTime(const NodeConfig& node, double touched) {
  const double speedup = node.nccl().cached_speedup();
  if (speedup <= 0) return 1;
  const double share = CachedShare(node.gpu(), touched);
  return share / speedup + 1 - share;
}

}  // namespace strata::sim
