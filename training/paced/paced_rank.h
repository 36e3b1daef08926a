// A rank whose operators take their cost in time, not what this machine needs
// for them: so two cores show what the steps of eight ranks look like.
//
//   operator     runs as ever, and lets the rank's device be busy for
//                max(FLOPs / rate, bytes / rate), by its own cost function at
//                the counts of this run
//   message,     really sent, once the device is done with what stands before;
//   collective   a rank that waited goes on when what it waited for is there
//
// A rank sleeps before it exchanges data, until its device is done, and nowhere
// else: nobody else sees where it is in between. So operators that take longer
// than their cost do no harm, as long as the rank is not late when it has
// something to send; lateness() says whether it was.

#ifndef TRAINING_PACED_PACED_RANK_H_
#define TRAINING_PACED_PACED_RANK_H_

#include <string>

#include "absl/status/status.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/parallel/communicator.h"
#include "core/parallel/observed_communicator.h"
#include "core/runtime/observed_backend.h"

namespace strata {

struct Pace {
  double flops_per_second = 0;
  double bytes_per_second = 0;
  // Operators cost time only where their scope begins with this: with
  // "model.layers." those of blocks, so that stages of as many are even.
  std::string scope;
};

// What an operator takes.
double PacedSeconds(const Pace& pace, const Node& node, const Cost& cost);

// Of one rank: not for several threads.
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
  // When the device is done with all so far, in seconds.
  double Now() const { return free_; }
  // The most by which this rank sent something after it should have.
  double lateness() const { return lateness_; }

  void End(const Node& node, const Cost& cost) override;
  absl::Status Before(const CommCall& call, Communicator& group) override;
  absl::Status After(const CommCall& call, Communicator& group) override;

 private:
  double SecondsSinceStart() const;

  const Pace pace_;
  const Clock clock_;
  bool is_paced_ = false;
  double start_ = 0;
  double free_ = 0;
  double lateness_ = 0;
};

}  // namespace strata

#endif  // TRAINING_PACED_PACED_RANK_H_
