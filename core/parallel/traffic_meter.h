// What a rank sends: steps and bytes by group, counted at the calls, whatever
// carries them.
//
//   TrafficMeter meter;
//   const std::unique_ptr<Communicator> world = WithTraffic(*ranks, meter);
//   Mesh::Create(*world, shape) ... train ...
//   meter.traffic().at("ep").bytes
//
// Bytes are those that leave the rank, steps the messages that wait for one
// another, both of the usual algorithms for n ranks and a payload of S bytes:
//
//   all_reduce      2 (n - 1) / n S   2 (n - 1)   ring
//   all_gather,     (n - 1) / n S     n - 1       ring; S of all ranks
//   reduce_scatter
//   all_to_all      pieces of others  n - 1       one rank after the other
//   broadcast       (n - 1) / n S     n - 1       a chain; S in pieces
//   send            S                 1
//
// Barriers and splits are not counted.

#ifndef CORE_PARALLEL_TRAFFIC_METER_H_
#define CORE_PARALLEL_TRAFFIC_METER_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "core/parallel/communicator.h"
#include "core/parallel/observed_communicator.h"

namespace strata {

// Bytes of a call that leave a rank, of the group's number `rank`.
double BytesSent(const CommCall& call, int rank);

struct Traffic {
  int64_t calls = 0;
  int64_t steps = 0;
  double bytes = 0;
};

// Of one rank, whose threads may call several groups at once. Read it when none
// does.
class TrafficMeter : public CommObserver {
 public:
  absl::Status Before(const CommCall& call, Communicator& group) override;
  void Reset() { traffic_.clear(); }
  // By group; none of groups of one rank, which send nothing.
  const std::map<std::string, Traffic>& traffic() const { return traffic_; }

 private:
  absl::Mutex mutex_;
  std::map<std::string, Traffic> traffic_;
};

// `group`, with its calls and those of what is split off it counted. Both must
// outlive the result.
std::unique_ptr<Communicator> WithTraffic(Communicator& group,
                                          TrafficMeter& meter);

}  // namespace strata

#endif  // CORE_PARALLEL_TRAFFIC_METER_H_
