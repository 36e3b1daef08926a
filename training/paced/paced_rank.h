// A rank whose operators take their cost in time, not what this machine needs
// for them: so two cores show what the steps of eight ranks look like.
//
//   operator     runs as ever, and lets the rank's device be busy for
//                max(FLOPs / rate, bytes / rate), by its own cost function at
//                the counts of this run
//   message,     really sent, once the device is done with what stands before;
//   collective   a rank that waited goes on when what it waited for is there;
//                of a network that takes its time, a collective ends its bytes
//                / rate after its last rank has come (messages take none)
//
// Nodes that run beside others (core/runtime/lanes.h) begin when the device has
// done what stands before them and the lane what was begun before; the device
// goes on, and waits for them where the program does.
//
// A rank sleeps before it exchanges data, until its device is done, and nowhere
// else: nobody else sees where it is in between. So operators that take longer
// than their cost do no harm, as long as the rank is not late when it has
// something to send; lateness() says whether it was.

#ifndef TRAINING_PACED_PACED_RANK_H_
#define TRAINING_PACED_PACED_RANK_H_

#include <deque>
#include <map>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/parallel/communicator.h"
#include "core/parallel/observed_communicator.h"
#include "core/runtime/observed_backend.h"

namespace strata {

struct Pace {
  double flops_per_second = 0;
  double bytes_per_second = 0;
  // Of the network, for what leaves a rank by a collective
  // (core/parallel/traffic_meter.h). 0: it takes no time.
  double wire_bytes_per_second = 0;
  // Operators cost time only where their scope begins with this: with
  // "model.layers." those of blocks, so that stages of as many are even.
  std::string scope;
};

// What an operator takes.
double PacedSeconds(const Pace& pace, const Node& node, const Cost& cost);
// What a collective of which so much leaves a rank takes on the wire.
double WireSeconds(const Pace& pace, double bytes);

// Of one rank.
class PacedRank : public NodeObserver, public CommObserver {
 public:
  // kReal sleeps. kVirtual never does: with each call the ranks exchange when
  // their devices are done, a message after each message, a maximum after each
  // collective. So times are exact, and those of a network without cost.
  enum class Clock { kReal, kVirtual };

  PacedRank(const Pace& pace, Clock clock) : pace_(pace), clock_(clock) {}

  // The device begins at 0; the ranks should be at the same point. Before, no
  // operator takes its time.
  void Start();
  // When the device is done with all so far, in seconds; to a lane's thread,
  // when what it exchanged last was there.
  double Now() const;
  // The most by which this rank sent something after it should have.
  double lateness() const;
  // How long the device was waiting, or held up, by collectives: for other
  // ranks, and for the wire.
  double exposed() const;

  void End(const Node& node, const Cost& cost) override;
  void Start(const Node& node, const Cost& cost) override;
  void Join(const Node& node) override;
  absl::Status Before(const CommCall& call, Communicator& group) override;
  absl::Status After(const CommCall& call, Communicator& group) override;

 private:
  // The nodes of a group that run beside others, in order.
  struct Lane {
    struct Begun {
      double when = 0;  // The device came to it.
      double cost = 0;  // Before it exchanges data.
    };
    std::deque<Begun> begun;
    std::deque<double> done;  // When they ended, of those not waited for.
    double free = 0;          // When the latest ended.
  };

  double SecondsSinceStart() const;
  // When a call may begin; its lane, or null.
  double Ready(const CommCall& call, Lane*& lane)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void WaitUntil(double end) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const Pace pace_;
  const Clock clock_;
  double start_ = 0;
  mutable absl::Mutex mutex_;
  bool is_paced_ ABSL_GUARDED_BY(mutex_) = false;
  double free_ ABSL_GUARDED_BY(mutex_) = 0;
  double lateness_ ABSL_GUARDED_BY(mutex_) = 0;
  double exposed_ ABSL_GUARDED_BY(mutex_) = 0;
  std::map<std::string, Lane> lanes_ ABSL_GUARDED_BY(mutex_);  // By group.
  // Of lanes' threads, what Now() is.
  std::map<std::thread::id, double> lane_now_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace strata

#endif  // TRAINING_PACED_PACED_RANK_H_
