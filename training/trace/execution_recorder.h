// Records what a rank does in some steps, as a Chakra execution trace
// (docs/chakra.md): `strata simulate --chakra` replays those of all ranks.
//
//   ExecutionRecorder recorder(rank);
//   world = Observed(*world, recorder);         before the mesh is made
//   backend = Observed(std::move(backend), recorder);
//   recorder.Start();  ... steps ...  recorder.Stop();
//   RETURN_IF_ERROR(recorder.Write("traces/train"));
//
//   operator            a computation, with its FLOPs and bytes
//   between operators   a host operation: batches, copies, logs
//   all-reduce, ...     a collective of its group
//   send, receive       a message
//   all-to-all          a message to and from each rank whose piece is not
//                       empty, as Chakra's all-to-all has pieces of one size
//
// A rank does one thing after the other, so each node depends on the one
// before, but nothing on a send, which returns before the message has come. An
// operator that exchanges data is what it does before and after; one that runs
// beside others (core/runtime/lanes.h) depends on what stood before it and on
// the lane's last, and what waits for it depends on it. Groups of one rank have
// no nodes.
//
// Times are whole microseconds since Start(), cut, so that rounding does not
// add up; what takes less than one is left out, and its time is in the next.

#ifndef TRAINING_TRACE_EXECUTION_RECORDER_H_
#define TRAINING_TRACE_EXECUTION_RECORDER_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/parallel/communicator.h"
#include "core/parallel/observed_communicator.h"
#include "core/runtime/observed_backend.h"

namespace strata {

// Of one rank; Start() to Write() are for the thread that runs its programs.
class ExecutionRecorder : public NodeObserver, public CommObserver {
 public:
  // Seconds, of any beginning.
  using Clock = std::function<double()>;

  // `rank` of the world. Null: the time of day.
  explicit ExecutionRecorder(int rank, Clock clock = nullptr);

  // Begins anew; the ranks should be at the same point, as behind a barrier.
  void Start();
  void Stop();
  bool is_recording() const;
  // From Start() to Stop().
  double seconds() const { return seconds_; }

  // The bytes of the rank's trace, after Stop().
  std::string Serialize() const;
  // Writes them to PREFIX.<rank>.et.
  absl::Status Write(absl::string_view prefix) const;

  void Begin(const Node& node) override;
  void End(const Node& node, const Cost& cost) override;
  void Start(const Node& node, const Cost& cost) override;
  void Wait(const Node& node) override;
  void Join(const Node& node) override;
  absl::Status Before(const CommCall& call, Communicator& group) override;
  absl::Status After(const CommCall& call, Communicator& group) override;

 private:
  enum class Kind { kCompute, kHost, kSend, kReceive, kCollective };
  struct Entry {
    Kind kind = Kind::kCompute;
    std::string name;
    int64_t start = 0;  // Microseconds.
    int64_t duration = 0;
    std::vector<int64_t> parents;  // Indexes of the entries that it follows.
    double flops = 0;
    double bytes = 0;     // That a computation touches, or of a communication.
    int64_t group = 0;    // RankGroup::number.
    int collective = -1;  // A ChakraProtoMsg::CollectiveCommType.
    int peer = -1;        // Of the world.
  };

  // The nodes of a group that run beside others, in order.
  struct Lane {
    // What stood before those that were begun, and when their call began.
    std::deque<std::vector<int64_t>> begun;
    int64_t start = 0;
    // Entries of those that are done and were not waited for.
    std::deque<std::vector<int64_t>> done;
    std::vector<int64_t> last;  // The latest entries.
  };

  int64_t Now() const;
  // What was done since the last cut, up to now.
  void Cut(Kind kind, absl::string_view name, double flops, double bytes)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Cuts before what an operator does next, or what comes between operators.
  void CutHere() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Entry& Add(Kind kind, absl::string_view name, int64_t start, int64_t end)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // What came by a call that waited: entries from the first that it adds on.
  std::vector<int64_t> AddArrived(const CommCall& call, int rank, int64_t start,
                                  int64_t end)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void AddSent(const CommCall& call, int rank, int64_t start)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void AddMessage(const CommCall& call, Kind kind, int peer, int64_t bytes,
                  int64_t start, int64_t end)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The lane whose first node makes the call; null: the program's own thread.
  Lane* LaneOf(const CommCall& call) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const int rank_;
  const Clock clock_;
  double begin_ = 0;
  double seconds_ = 0;
  const Node* node_ = nullptr;  // That runs.
  mutable absl::Mutex mutex_;   // Of what lanes' threads tell.
  bool is_recording_ ABSL_GUARDED_BY(mutex_) = false;
  int64_t cut_ ABSL_GUARDED_BY(mutex_) = 0;  // Microseconds.
  // What comes next follows these.
  std::vector<int64_t> parents_ ABSL_GUARDED_BY(mutex_);
  std::vector<Entry> entries_ ABSL_GUARDED_BY(mutex_);
  std::map<int64_t, RankGroup> groups_ ABSL_GUARDED_BY(mutex_);  // By number.
  std::map<std::string, Lane> lanes_ ABSL_GUARDED_BY(mutex_);    // By group.
};

}  // namespace strata

#endif  // TRAINING_TRACE_EXECUTION_RECORDER_H_
