#include "serving/api/served_versions.h"

#include <cstddef>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace strata {
namespace {

// Of a version that is let go, what it had and ran is no more.
EngineStats CountsAlone(EngineStats stats) {
  stats.num_running = stats.num_waiting = 0;
  stats.num_blocks = stats.num_used_blocks = stats.num_kept_blocks = 0;
  return stats;
}

}  // namespace

std::shared_ptr<ServedModel> ServedVersions::Current() const {
  absl::MutexLock lock(&mutex_);
  return models_.back();
}

void ServedVersions::Swap(std::shared_ptr<ServedModel> model) {
  absl::MutexLock lock(&mutex_);
  models_.push_back(std::move(model));
  Retire();
}

absl::StatusOr<std::string> ServedVersions::RollBack() {
  absl::MutexLock lock(&mutex_);
  if (models_.size() < 2) {
    return absl::FailedPreconditionError("there is no version before this one");
  }
  std::swap(models_.back(), models_[models_.size() - 2]);
  return models_.back()->version;
}

void ServedVersions::Retire() {
  for (size_t i = 0; i + 2 < models_.size();) {
    // Only Current() makes holders, and only of the last.
    if (models_[i].use_count() > 1) {
      ++i;
      continue;
    }
    retired_ += CountsAlone(models_[i]->engine.stats());
    models_.erase(models_.begin() + static_cast<ptrdiff_t>(i));
  }
}

EngineStats ServedVersions::Stats() {
  absl::MutexLock lock(&mutex_);
  Retire();
  EngineStats total = retired_;
  for (const auto& model : models_) total += model->engine.stats();
  return total;
}

std::vector<GateLoad> ServedVersions::gate_loads() const {
  return Current()->engine.gate_loads();
}

bool ServedVersions::Drain(absl::Time until) {
  std::vector<std::shared_ptr<ServedModel>> models;
  {
    absl::MutexLock lock(&mutex_);
    models = models_;
  }
  // Newest first: requests go there.
  bool all = true;
  for (auto it = models.rbegin(); it != models.rend(); ++it) {
    all = (*it)->engine.Drain(until) && all;
  }
  return all;
}

}  // namespace strata
