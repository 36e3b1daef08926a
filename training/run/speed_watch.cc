#include "training/run/speed_watch.h"

#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/base/status_macros.h"
#include "core/parallel/communicator.h"
#include "core/parallel/mesh.h"
#include "training/metrics.h"

namespace strata {
namespace {

constexpr size_t kHostBytes = 64;
constexpr double kLeastSeconds = 0.5;
constexpr int64_t kMostSteps = 10;

// The `each` elements of every rank.
template <typename T>
absl::StatusOr<std::vector<T>> FromAll(std::vector<T> mine,
                                       Communicator& ranks) {
  std::vector<T> all(mine.size() * ranks.size());
  const std::vector<int64_t> counts(ranks.size(),
                                    static_cast<int64_t>(mine.size()));
  RETURN_IF_ERROR(ranks.AllGather(PayloadOf(absl::MakeSpan(mine)), counts,
                                  PayloadOf(absl::MakeSpan(all))));
  return all;
}

}  // namespace

absl::StatusOr<SpeedWatch> SpeedWatch::Create(const Mesh& mesh) {
  SpeedWatch watch(mesh);
  std::vector<uint8_t> host(kHostBytes);
  gethostname(reinterpret_cast<char*>(host.data()), kHostBytes - 1);
  ASSIGN_OR_RETURN(const std::vector<uint8_t> hosts,
                   FromAll(std::move(host), mesh.world()));
  for (size_t at = 0; at < hosts.size(); at += kHostBytes) {
    watch.hosts_.emplace_back(reinterpret_cast<const char*>(&hosts[at]));
  }
  return watch;
}

absl::StatusOr<std::optional<std::vector<double>>> SpeedWatch::AfterStep(
    const StepMetrics& metrics) {
  own_ += std::max(0.0, metrics.seconds - metrics.waited);
  if (++steps_ % every_ != 0) return std::nullopt;
  ASSIGN_OR_RETURN(std::vector<double> own,
                   FromAll(std::vector<double>{own_}, mesh_->world()));
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
