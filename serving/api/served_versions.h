// The versions of the model that a server has: the one that new requests get,
// the one before, to roll back to, and older ones while they still answer.

#ifndef SERVING_API_SERVED_VERSIONS_H_
#define SERVING_API_SERVED_VERSIONS_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "serving/api/served_model.h"
#include "serving/engine/engine.h"

namespace strata {

// For several threads. A request holds the model that it began with, whose
// engine goes on taking requests until nobody holds it: a swap loses none.
class ServedVersions {
 public:
  explicit ServedVersions(std::shared_ptr<ServedModel> first)
      : models_({std::move(first)}) {}

  std::shared_ptr<ServedModel> Current() const;

  // New requests get `model` from now on.
  void Swap(std::shared_ptr<ServedModel> model);

  // New requests get the version before from now on, and what was served then
  // is the one before. Returns its version; FAILED_PRECONDITION if there is
  // none.
  absl::StatusOr<std::string> RollBack();

  // Of all versions since the beginning: counts added up, and what is the case
  // now.
  EngineStats Stats();

  // Of the version that is served now.
  std::vector<GateLoad> gate_loads() const;

  // Drains all engines; false if something had to be cancelled.
  bool Drain(absl::Time until);

 private:
  // Lets go of versions that are neither served nor the one before and answer
  // no more; their counts stay.
  void Retire() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  mutable absl::Mutex mutex_;
  // The current one last, the one before it before.
  std::vector<std::shared_ptr<ServedModel>> models_ ABSL_GUARDED_BY(mutex_);
  EngineStats retired_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace strata

#endif  // SERVING_API_SERVED_VERSIONS_H_
