#include "training/paced/paced_rank.h"

#include <algorithm>
#include <chrono>
#include <thread>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/types/span.h"
#include "core/base/status_macros.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/parallel/communicator.h"
#include "core/parallel/observed_communicator.h"

namespace strata {
namespace {

double SteadySeconds() {
  return std::chrono::duration<double>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

}  // namespace

double PacedSeconds(const Pace& pace, const Node& node, const Cost& cost) {
  if (!absl::StartsWith(node.scope, pace.scope)) return 0;
  return std::max(
      cost.flops / pace.flops_per_second,
      (cost.bytes_read + cost.bytes_written) / pace.bytes_per_second);
}

void PacedRank::Start() {
  is_paced_ = true;
  free_ = 0;
  lateness_ = 0;
  start_ = SteadySeconds();
}

double PacedRank::SecondsSinceStart() const { return SteadySeconds() - start_; }

void PacedRank::End(const Node& node, const Cost& cost) {
  if (is_paced_) free_ += PacedSeconds(pace_, node, cost);
}

absl::Status PacedRank::Before(const CommCall& call, Communicator& group) {
  if (!is_paced_ || clock_ == Clock::kVirtual || group.size() == 1) {
    return absl::OkStatus();
  }
  const double early = free_ - SecondsSinceStart();
  if (early > 0) {
    std::this_thread::sleep_for(std::chrono::duration<double>(early));
  } else if (call.kind != CommCall::Kind::kReceive) {
    lateness_ = std::max(lateness_, -early);
  }
  return absl::OkStatus();
}

absl::Status PacedRank::After(const CommCall& call, Communicator& group) {
  if (!is_paced_ || group.size() == 1) return absl::OkStatus();
  if (clock_ == Clock::kReal) {
    if (call.waits()) free_ = std::max(free_, SecondsSinceStart());
    return absl::OkStatus();
  }
  double when[] = {free_};
  const Payload payload = PayloadOf(absl::MakeSpan(when));
  switch (call.kind) {
    case CommCall::Kind::kSend:
      return group.Send(payload, call.peer);
    case CommCall::Kind::kReceive:
      RETURN_IF_ERROR(group.Receive(payload, call.peer));
      break;
    default:
      RETURN_IF_ERROR(group.AllReduce(payload, ReduceOp::kMax));
  }
  free_ = std::max(free_, when[0]);
  return absl::OkStatus();
}

}  // namespace strata
