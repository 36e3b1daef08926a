#include "training/run/speed_watch.h"

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/base/status_macros.h"
#include "core/parallel/agree.h"
#include "core/parallel/communicator.h"
#include "core/parallel/mesh.h"
#include "training/metrics.h"

namespace strata {
namespace {

constexpr double kLeastSeconds = 0.5;
constexpr int64_t kMostSteps = 10;

}  // namespace

absl::StatusOr<SpeedWatch> SpeedWatch::Create(const Mesh& mesh) {
  SpeedWatch watch(mesh);
  ASSIGN_OR_RETURN(watch.hosts_, HostsOf(mesh.world()));
  return watch;
}

absl::StatusOr<std::optional<std::vector<double>>> SpeedWatch::AfterStep(
    const StepMetrics& metrics) {
  own_ += std::max(0.0, metrics.seconds - metrics.waited);
  if (++steps_ % every_ != 0) return std::nullopt;
  Communicator& ranks = mesh_->world();
  std::vector<double> own(ranks.size());
  const std::vector<int64_t> counts(ranks.size(), 1);
  RETURN_IF_ERROR(ranks.AllGather(PayloadOf(absl::MakeSpan(&own_, 1)), counts,
                                  PayloadOf(absl::MakeSpan(own))));
  const double mean = std::accumulate(own.begin(), own.end(), 0.0) /
                      static_cast<double>(own.size());
  const bool is_long = mean >= kLeastSeconds * static_cast<double>(steps_);
  every_ = is_long ? 1 : kMostSteps;
  const bool is_over =
      mean >= kLeastSeconds && *std::min_element(own.begin(), own.end()) > 0;
  if (!is_over) return std::nullopt;
  own_ = 0;
  steps_ = 0;
  return own;
}

}  // namespace strata
