// Signs of life of ranks, which are processes: where one is waited for in vain,
// it is the one that has not been heard of.
//
//   host a   rank 0   beats while it waits   --+--  a table that they all map,
//            rank 1   is stopped               |    [ranks]: the last beat that
//                                              |    is known of each
//                                           messages, now and again
//                                              |
//   host b   rank 2   beats while it waits   --+--  the table of this host
//            rank 3   beats while it waits   --+
//
// At its k-th turn rank r tells rank r + 2^k what it knows, so that what one
// host knows has come to all after as many turns as their number has bits; a
// rank that is stopped forwards nothing, and the next turns go past it.

#ifndef CORE_PARALLEL_PULSE_H_
#define CORE_PARALLEL_PULSE_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "core/parallel/communicator.h"

namespace strata {

// Messages between the ranks of a world, beside what else they exchange.
class PulseLink {
 public:
  virtual ~PulseLink() = default;

  // Sends a copy, without waiting; nothing where the last one to that rank has
  // not gone yet.
  virtual void Send(absl::Span<const int64_t> message, int to) = 0;

  // Whether a message of that size has come; writes it to `message` then.
  virtual bool Receive(absl::Span<int64_t> message) = 0;
};

// Where a rank is, as another sees it.
struct PulsePlace {
  std::string host;
  bool shares_table = false;  // With the one that sees it.
};

// What a rank knows of the others. JoinPulse makes a process's own.
class Pulse {
 public:
  // A rank's last beat that is known of, nanoseconds; 0: none. `was` tells news
  // from what comes round again, `heard` how long ago it is: hosts have clocks
  // of their own.
  struct alignas(64) Beat {
    std::atomic<int64_t> heard;  // By the clock of this host.
    std::atomic<int64_t> was;    // By the clock of its own.
  };

  // `place` is [ranks]; `beat`, [ranks + 1], outlives this and may be shared
  // with other ranks. Its last is no rank's, but of ClaimLastWord.
  Pulse(int rank, std::vector<PulsePlace> place, Beat* beat);
  ~Pulse();

  // From now on this rank exchanges what it knows with those that have tables
  // of their own: as it beats, once an interval, on whichever thread that is.
  // Until then nothing is known of them.
  void BeginExchange(int64_t now, absl::Duration interval,
                     std::unique_ptr<PulseLink> link);
  void EndExchange();

  // This rank is there at `now`.
  void BeatAt(int64_t now);

  // "; rank 1 was last heard of 61s ago" for each that has been silent for
  // `at_least` and longer; empty if none has. With its host if there are
  // several, and those of a host where all are silent in one.
  std::string SilentAt(int64_t now, absl::Duration at_least) const;

  // Whether this is the first of those that share the table to call it.
  bool ClaimLastWord();

 private:
  struct Exchange;

  int num_ranks() const { return static_cast<int>(place_.size()); }
  void Hear(int64_t now);
  void Tell();

  const int rank_;
  const std::vector<PulsePlace> place_;
  Beat* const beat_;
  std::unique_ptr<Exchange> exchange_;
};

// To be called by every rank of `world`, once a process, as its ranks and
// threads are one. `link` is from each to each of them and may be null. Returns
// the errors of its calls; that there is no memory to share is none.
absl::Status JoinPulse(Communicator& world, absl::Duration interval,
                       std::unique_ptr<PulseLink> link);

// Ends the exchange with other hosts: before what carries it ends.
void LeavePulse();

// This rank is there: from wherever it waits, over and over. Costs a store.
void BeatPulse();

// What Pulse says. Empty before JoinPulse.
std::string SilentRanks(absl::Duration at_least);

// Whether this rank is the one of its host that says why all end: the first
// that asks. Before JoinPulse each is.
bool ClaimLastWord();

}  // namespace strata

#endif  // CORE_PARALLEL_PULSE_H_
