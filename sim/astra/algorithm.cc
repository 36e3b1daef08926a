#include "sim/astra/algorithm.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <deque>
#include <memory>

#include "core/base/check.h"
#include "sim/astra/system_config.h"

namespace strata::astra {
namespace {

// Ring, direct and halving-doubling: rows of steps, each of which sends to one
// rank and receives from one. A step is injected at the start and whenever a
// message has come in; once charged it gives a credit, and a send takes one. At
// most `window` steps are under way. The phase is over when all has been sent
// and all credits are back.
class StepAlgorithm : public Algorithm {
 public:
  StepAlgorithm(const Phase& phase, Port& port)
      : phase_(phase), port_(port), n_(phase.ring.size) {}

  void On(Signal signal) override {
    switch (signal) {
      case Signal::kStart:
        for (int i = 0; i < window_; ++i) Inject();
        break;
      case Signal::kReceived:
        ++num_received_;
        Inject();
        break;
      case Signal::kCharged:
        ++credits_;
        OnCredit();
        break;
    }
  }

 protected:
  struct Step {
    int to = 0;
    int from = 0;
    uint64_t bytes = 0;
  };

  // The next step in the order of injection. Steps beyond the last send are
  // charged but never sent.
  virtual Step NextStep() = 0;

  virtual void OnCredit() {
    SendNext();
    FinishIfDone();
  }

  void SendNext() {
    if (steps_.empty() || sends_left_ == 0 || credits_ == 0) return;
    const Step step = steps_.front();
    steps_.pop_front();
    --sends_left_;
    --credits_;
    port_.Send(step.to, step.bytes);
    port_.Receive(step.from, step.bytes);
  }

  // Nothing may follow a call of this.
  void FinishIfDone() {
    if (sends_left_ == 0 && credits_ == window_) port_.Finish();
  }

  // Rounds of steps: `window_` that reduce nothing, then `reducing_` that do if
  // the round reduces: every one of a reduce-scatter, the odd ones of an
  // all-reduce.
  void Inject() {
    if (plain_left_ == 0 && reducing_left_ == 0) {
      plain_left_ = window_;
      reducing_left_ = reducing_;
      is_odd_round_ = !is_odd_round_;
    }
    bool reduces = false;
    if (plain_left_ > 0) {
      --plain_left_;
    } else {
      --reducing_left_;
      reduces = phase_.type == CollectiveType::kReduceScatter ||
                (phase_.type == CollectiveType::kAllReduce && is_odd_round_);
    }
    const Step step = NextStep();
    steps_.push_back(step);
    port_.Charge(step.bytes, reduces);
  }

  const Phase phase_;
  Port& port_;
  const int n_;
  int window_ = 1;
  int reducing_ = 0;
  int64_t sends_left_ = 0;
  int64_t num_received_ = 0;
  int64_t credits_ = 0;

 private:
  std::deque<Step> steps_;  // Injected and not sent.
  int plain_left_ = 0;
  int reducing_left_ = 0;
  bool is_odd_round_ = false;
};

class RingAlgorithm : public StepAlgorithm {
 public:
  RingAlgorithm(const Phase& phase, Port& port) : StepAlgorithm(phase, port) {
    const int64_t n = n_;
    reducing_ = n_ - 1;
    bytes_ = phase.bytes / n;
    sends_left_ = n - 1;
    switch (phase.type) {
      case CollectiveType::kAllReduce:
        sends_left_ = 2 * (n - 1);
        break;
      case CollectiveType::kAllToAll:
        // The block for the rank d steps away is passed on d times.
        sends_left_ = n * (n - 1) / 2;
        break;
      case CollectiveType::kAllGather:
        bytes_ = phase.bytes;
        break;
      case CollectiveType::kReduceScatter:
        break;
    }
    direction_ = phase.anticlockwise ? -1 : 1;
  }

 protected:
  Step NextStep() override {
    return {phase_.ring.At(direction_), phase_.ring.At(-direction_), bytes_};
  }

  int direction_ = 1;
  uint64_t bytes_ = 0;
};

// Straight to every other rank in turn, the nearest along the ring first.
class DirectAlgorithm : public RingAlgorithm {
 public:
  DirectAlgorithm(const Phase& phase, Port& port) : RingAlgorithm(phase, port) {
    window_ = phase.window == 0 ? n_ - 1 : std::min(phase.window, n_ - 1);
    reducing_ = phase.small_group ? (n_ - 1) * window_ : window_;
    if (phase.type == CollectiveType::kAllToAll) sends_left_ = n_ - 1;
  }

 protected:
  Step NextStep() override {
    const int distance = direction_ * (1 + turn_);
    turn_ = (turn_ + 1) % (n_ - 1);
    return {phase_.ring.At(distance), phase_.ring.At(-distance), bytes_};
  }

  // The second half of an all-reduce starts when the first has come in whole.
  void OnCredit() override {
    if (phase_.type != CollectiveType::kAllReduce || sends_left_ > n_ - 1) {
      StepAlgorithm::OnCredit();
      return;
    }
    if (num_received_ < n_ - 1) return;
    for (int i = 0; i < window_; ++i) SendNext();
    FinishIfDone();
  }

 private:
  int turn_ = 0;
};

// Exchanges with the rank at a distance that doubles while the bytes halve
// (reduce-scatter), the reverse (all-gather), or one and then the other.
class HalvingDoublingAlgorithm : public StepAlgorithm {
 public:
  HalvingDoublingAlgorithm(const Phase& phase, Port& port)
      : StepAlgorithm(phase, port) {
    CHECK(phase.type != CollectiveType::kAllToAll);
    const double log_n = std::log2(n_);
    reducing_ = static_cast<int>(log_n - 1);
    sends_left_ = static_cast<int64_t>(
        phase.type == CollectiveType::kAllReduce ? 2 * log_n : log_n);
    is_doubling_ = phase.type != CollectiveType::kAllGather;
    distance_ = is_doubling_ ? 1 : n_ / 2;
    bytes_ = is_doubling_ ? phase.bytes / 2 : phase.bytes;
  }

 protected:
  Step NextStep() override {
    const int peer = Peer();
    const Step step = {peer, peer, bytes_};
    Scale();
    if (distance_ == n_ && phase_.type == CollectiveType::kAllReduce) {
      is_doubling_ = false;
      Scale();
    }
    return step;
  }

 private:
  int Peer() const {
    if (distance_ == 0) return phase_.ring.At(0);  // Beyond the last send.
    const bool is_upper = phase_.ring.index / distance_ % 2 == 1;
    return phase_.ring.At(is_upper ? -distance_ : distance_);
  }

  void Scale() {
    distance_ = is_doubling_ ? distance_ * 2 : distance_ / 2;
    bytes_ = is_doubling_ ? bytes_ / 2 : bytes_ * 2;
  }

  bool is_doubling_ = true;
  int distance_ = 1;
  uint64_t bytes_ = 0;
};

// An all-reduce up and down a binary tree: a root with one child, below which
// the other ranks are a full tree, numbered from left to right.
class TreeAlgorithm : public Algorithm {
 public:
  TreeAlgorithm(const Phase& phase, Port& port)
      : bytes_(phase.bytes), port_(port) {
    const Ring& ring = phase.ring;
    const int n = ring.size;
    CHECK(n >= 2 && (n & (n - 1)) == 0) << n;
    const auto rank_at = [&](int position) {
      return ring.At(position - ring.index);
    };
    // Positions in the full tree count from 1; its rank `first` is 1.
    const int root = phase.root_last ? n - 1 : 0;
    const int first = phase.root_last ? 0 : 1;
    if (ring.index == root) {
      children_[num_children_++] = rank_at(first + n / 2 - 1);
      return;
    }
    const int place = ring.index - first + 1;
    const int span = place & -place;  // Of the subtree on each side.
    const int parent = (place - span) | (2 * span);
    parent_ = place == n / 2 ? rank_at(root) : rank_at(first + parent - 1);
    if (span == 1) return;
    children_[num_children_++] = rank_at(first + place - span / 2 - 1);
    children_[num_children_++] = rank_at(first + place + span / 2 - 1);
  }

  void On(Signal signal) override {
    switch (signal) {
      case Signal::kStart:
        if (num_children_ == 0) {
          port_.Charge(bytes_, /*reduces=*/false);
        }
        for (int i = 0; i < num_children_; ++i) {
          port_.Receive(children_[i], bytes_);
        }
        break;
      case Signal::kReceived:
        // From a child, or the result from the parent. A leaf only stores it.
        port_.Charge(bytes_, /*reduces=*/num_children_ > 0);
        break;
      case Signal::kCharged:
        OnCharged();
        break;
    }
  }

 private:
  static constexpr int kNoParent = -1;

  void OnCharged() {
    ++num_charged_;
    const int num_up = std::max(num_children_, 1);
    if (num_charged_ < num_up) return;
    if (num_charged_ == num_up && parent_ != kNoParent) {
      port_.Send(parent_, bytes_);
      port_.Receive(parent_, bytes_);
      return;
    }
    for (int i = 0; i < num_children_; ++i) port_.Send(children_[i], bytes_);
    port_.Finish();
  }

  const uint64_t bytes_;
  Port& port_;
  int parent_ = kNoParent;
  int children_[2] = {0, 0};
  int num_children_ = 0;
  int num_charged_ = 0;
};

}  // namespace

uint64_t BytesAfter(const Phase& phase) {
  if (phase.kind == AlgorithmKind::kDoubleBinaryTree) return phase.bytes;
  switch (phase.type) {
    case CollectiveType::kReduceScatter:
      return phase.bytes / phase.ring.size;
    case CollectiveType::kAllGather:
      return phase.bytes * phase.ring.size;
    case CollectiveType::kAllReduce:
    case CollectiveType::kAllToAll:
      break;
  }
  return phase.bytes;
}

std::unique_ptr<Algorithm> MakeAlgorithm(const Phase& phase, Port& port) {
  switch (phase.kind) {
    case AlgorithmKind::kRing:
      return std::make_unique<RingAlgorithm>(phase, port);
    case AlgorithmKind::kDirect:
      return std::make_unique<DirectAlgorithm>(phase, port);
    case AlgorithmKind::kHalvingDoubling:
      return std::make_unique<HalvingDoublingAlgorithm>(phase, port);
    case AlgorithmKind::kDoubleBinaryTree:
      break;
  }
  return std::make_unique<TreeAlgorithm>(phase, port);
}

}  // namespace strata::astra
