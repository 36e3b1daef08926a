#include "core/runtime/lanes.h"

#include <algorithm>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "core/base/check.h"
#include "core/base/thread_pool.h"
#include "core/graph/graph.h"
#include "core/parallel/rank_wait.h"
#include "core/runtime/scratch.h"

namespace strata {

class Lanes::Lane {
 public:
  explicit Lane(std::string group)
      : group_(std::move(group)), thread_([this] { RunCalls(); }) {}

  ~Lane() {
    {
      absl::MutexLock lock(&mutex_);
      ends_ = true;
    }
    thread_.join();
  }

  const std::string& group() const { return group_; }

  void Begin(const Call& call) {
    absl::MutexLock lock(&mutex_);
    runs_.push_back({call, /*is_done=*/false, absl::OkStatus()});
  }

  absl::Status Join(const Node& node) {
    absl::MutexLock lock(&mutex_);
    const auto run_of = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return std::find_if(runs_.begin(), runs_.end(), [&](const Run& run) {
        return run.call.node == &node;
      });
    };
    CHECK(run_of() != runs_.end()) << node.scope << " was not begun";
    const auto is_done = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return run_of()->is_done;
    };
    const RankWait waiting;
    mutex_.Await(absl::Condition(&is_done));
    const absl::Status status = std::move(run_of()->status);
    runs_.erase(run_of());  // Few: their memory stays.
    return status;
  }

 private:
  struct Run {
    Call call;
    bool is_done = false;
    absl::Status status;
  };

  void RunCalls() {
    absl::MutexLock lock(&mutex_);
    const auto next = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return std::find_if(runs_.begin(), runs_.end(),
                          [](const Run& run) { return !run.is_done; });
    };
    const auto has_work = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return next() != runs_.end() || ends_;
    };
    for (;;) {
      mutex_.Await(absl::Condition(&has_work));
      if (next() == runs_.end()) return;
      const Call call = next()->call;
      mutex_.Unlock();
      scratch_.Reset();
      absl::Status status = call.kernel(
          {*call.node, call.inputs, call.outputs, pool_, scratch_, call.mesh});
      mutex_.Lock();
      next()->status = std::move(status);
      next()->is_done = true;
    }
  }

  const std::string group_;
  ThreadPool pool_{1};
  Scratch scratch_;
  absl::Mutex mutex_;
  // Those that are not joined, in order; the first that is not done runs.
  std::vector<Run> runs_ ABSL_GUARDED_BY(mutex_);
  bool ends_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;  // The last to begin, and the first to end.
};

Lanes::Lanes() = default;
Lanes::~Lanes() = default;

Lanes::Lane& Lanes::Of(const Node& node) {
  const std::string& group = node.attrs.String("group");
  for (const std::unique_ptr<Lane>& lane : lanes_) {
    if (lane->group() == group) return *lane;
  }
  return *lanes_.emplace_back(std::make_unique<Lane>(group));
}

void Lanes::Begin(const Call& call) { Of(*call.node).Begin(call); }

absl::Status Lanes::Join(const Node& node) { return Of(node).Join(node); }

}  // namespace strata
