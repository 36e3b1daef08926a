#include "core/parallel/traffic_meter.h"

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "core/parallel/communicator.h"
#include "core/parallel/observed_communicator.h"

namespace strata {

double BytesSent(const CommCall& call, int rank) {
  const auto size = static_cast<double>(call.group->ranks.size());
  const double others_share =
      static_cast<double>(call.bytes) * (size - 1) / size;
  switch (call.kind) {
    case CommCall::Kind::kAllReduce:
      return 2 * others_share;
    case CommCall::Kind::kAllToAll: {
      int64_t elements = 0;
      for (int r = 0; r < static_cast<int>(call.sent.size()); ++r) {
        if (r != rank) elements += call.sent[r];
      }
      return static_cast<double>(elements * call.element_bytes);
    }
    case CommCall::Kind::kSend:
      return static_cast<double>(call.bytes);
    default:
      return others_share;
  }
}

absl::Status TrafficMeter::Before(const CommCall& call, Communicator& group) {
  const auto others = static_cast<int64_t>(call.group->ranks.size()) - 1;
  if (others == 0 || call.kind == CommCall::Kind::kReceive ||
      call.kind == CommCall::Kind::kBarrier) {
    return absl::OkStatus();
  }
  absl::MutexLock lock(&mutex_);
  Traffic& traffic = traffic_[call.group->name];
  ++traffic.calls;
  traffic.steps += call.kind == CommCall::Kind::kSend        ? 1
                   : call.kind == CommCall::Kind::kAllReduce ? 2 * others
                                                             : others;
  traffic.bytes += BytesSent(call, group.rank());
  return absl::OkStatus();
}

std::unique_ptr<Communicator> WithTraffic(Communicator& group,
                                          TrafficMeter& meter) {
  return Observed(group, meter);
}

}  // namespace strata
