#include "training/paced/paced_rank.h"

#include <algorithm>
#include <chrono>
#include <thread>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "core/base/status_macros.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/parallel/communicator.h"
#include "core/parallel/observed_communicator.h"
#include "core/parallel/traffic_meter.h"

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

double WireSeconds(const Pace& pace, double bytes) {
  return pace.wire_bytes_per_second > 0 ? bytes / pace.wire_bytes_per_second
                                        : 0;
}

void PacedRank::Start() {
  absl::MutexLock lock(&mutex_);
  is_paced_ = true;
  free_ = 0;
  lateness_ = 0;
  exposed_ = 0;
  start_ = SteadySeconds();
}

double PacedRank::Now() const {
  absl::MutexLock lock(&mutex_);
  const auto lane = lane_now_.find(std::this_thread::get_id());
  return lane != lane_now_.end() ? lane->second : free_;
}

double PacedRank::lateness() const {
  absl::MutexLock lock(&mutex_);
  return lateness_;
}

double PacedRank::exposed() const {
  absl::MutexLock lock(&mutex_);
  return exposed_;
}

double PacedRank::SecondsSinceStart() const { return SteadySeconds() - start_; }

void PacedRank::WaitUntil(double end) {
  if (end <= free_) return;
  exposed_ += end - free_;
  free_ = end;
}

void PacedRank::End(const Node& node, const Cost& cost) {
  absl::MutexLock lock(&mutex_);
  if (is_paced_) free_ += PacedSeconds(pace_, node, cost);
}

void PacedRank::Start(const Node& node, const Cost& cost) {
  absl::MutexLock lock(&mutex_);
  if (!is_paced_) return;
  lanes_[node.attrs.String("group")].begun.push_back(
      {free_, PacedSeconds(pace_, node, cost)});
}

void PacedRank::Join(const Node& node) {
  absl::MutexLock lock(&mutex_);
  if (!is_paced_) return;
  Lane& lane = lanes_[node.attrs.String("group")];
  WaitUntil(lane.done.front());
  lane.done.pop_front();
}

double PacedRank::Ready(const CommCall& call, Lane*& lane) {
  const auto found = lanes_.find(call.group->name);
  if (found == lanes_.end() || found->second.begun.empty()) return free_;
  lane = &found->second;
  return std::max(lane->begun.front().when, lane->free) +
         lane->begun.front().cost;
}

absl::Status PacedRank::Before(const CommCall& call, Communicator& group) {
  double early = 0;
  {
    absl::MutexLock lock(&mutex_);
    if (!is_paced_ || clock_ == Clock::kVirtual || group.size() == 1) {
      return absl::OkStatus();
    }
    Lane* lane = nullptr;
    early = Ready(call, lane) - SecondsSinceStart();
    if (early < 0 && call.kind != CommCall::Kind::kReceive) {
      lateness_ = std::max(lateness_, -early);
    }
  }
  if (early > 0) {
    std::this_thread::sleep_for(std::chrono::duration<double>(early));
  }
  return absl::OkStatus();
}

absl::Status PacedRank::After(const CommCall& call, Communicator& group) {
  Lane* lane = nullptr;
  double ready = 0;
  {
    absl::MutexLock lock(&mutex_);
    if (!is_paced_ || group.size() == 1) return absl::OkStatus();
    ready = Ready(call, lane);
  }
  // When the last rank came, and how long it takes from there.
  double when[] = {ready, 0};
  const bool is_message = call.kind == CommCall::Kind::kSend ||
                          call.kind == CommCall::Kind::kReceive;
  if (!is_message) {
    when[1] = WireSeconds(pace_, BytesSent(call, group.rank()));
  }
  if (clock_ == Clock::kReal) {
    when[0] = std::max(ready, SecondsSinceStart());
  } else {
    const Payload payload = PayloadOf(absl::MakeSpan(when));
    if (call.kind == CommCall::Kind::kSend) {
      return group.Send(payload, call.peer);
    }
    RETURN_IF_ERROR(call.kind == CommCall::Kind::kReceive
                        ? group.Receive(payload, call.peer)
                        : group.AllReduce(payload, ReduceOp::kMax));
    when[0] = std::max(ready, when[0]);
  }
  if (!call.waits()) return absl::OkStatus();
  const double end = when[0] + when[1];
  absl::MutexLock lock(&mutex_);
  if (lane == nullptr) {
    WaitUntil(end);
    return absl::OkStatus();
  }
  lane->begun.pop_front();
  lane->done.push_back(end);
  lane->free = end;
  lane_now_[std::this_thread::get_id()] = end;
  return absl::OkStatus();
}

}  // namespace strata
