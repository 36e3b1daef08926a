// Where the time of replayed traces goes: each rank's time split into parts
// that add up, and the chain of nodes that made the last rank end when it did.

#ifndef SIM_REPLAY_REPLAY_SUMMARY_H_
#define SIM_REPLAY_REPLAY_SUMMARY_H_

#include <array>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "sim/engine/time.h"
#include "sim/replay/replay.h"

namespace strata::sim {

// What a rank does at a time; of several the first of these.
enum class ReplayPart {
  kCompute,
  kAllReduce,  // Exposed, as all communication here: nothing computes.
  kAllGather,
  kReduceScatter,
  kAllToAll,
  kOtherCollective,
  kMessage,
  kLateRanks,  // It has joined a collective, others have not.
  kLateSend,   // It receives, and the message has not left yet.
  kMemory,
  kHost,
  kIdle,  // Nothing at all, before its last node.
  kDone,  // After it.
};
inline constexpr int kNumReplayParts = 13;

// "compute", "all-reduce, exposed", ...
absl::string_view NameOf(ReplayPart part);

struct RankSummary {
  Picoseconds end = 0;                                  // Of its last node.
  std::array<Picoseconds, kNumReplayParts> parts = {};  // Sum: the total.
};

struct PathStep {
  NodeIndex node = -1;
  Picoseconds time = 0;  // Of the path that is the node's own.
};

struct ReplaySummary {
  std::vector<RankSummary> ranks;
  int last_rank = 0;  // The first of those that end last.
  // Computing as a share of the total, mean and standard deviation over ranks.
  double utilisation = 0;
  double utilisation_spread = 0;
  double exposed_share = 0;    // Communication and waiting, mean over ranks.
  std::vector<PathStep> path;  // From the beginning to the end.
  std::string path_in_words;
};

ReplaySummary Summarise(const ReplayResult& result);

// What the node's work is a part of, if the rank does nothing before it in the
// list.
ReplayPart PartOf(const TracePlan& plan, NodeIndex node);

}  // namespace strata::sim

#endif  // SIM_REPLAY_REPLAY_SUMMARY_H_
