#include "core/parallel/pipeline_schedule.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "core/base/check.h"
#include "core/base/status_macros.h"

namespace strata {
namespace {

using Kind = PipelineItem::Kind;

constexpr int64_t kMaxItems = 100'000'000;

constexpr PipelineKind kKinds[] = {
    PipelineKind::kGPipe,    PipelineKind::k1F1B, PipelineKind::kInterleaved,
    PipelineKind::kZbH1,     PipelineKind::kZb1p, PipelineKind::kDualPipe,
    PipelineKind::kDualPipeV};

bool IsDual(PipelineKind kind) {
  return kind == PipelineKind::kDualPipe || kind == PipelineKind::kDualPipeV;
}

absl::Status Wrong(const PipelineShape& shape, absl::string_view what,
                   int64_t value, absl::string_view wanted) {
  return absl::InvalidArgumentError(absl::StrCat("schedule ", Name(shape.kind),
                                                 " has ", value, " ", what,
                                                 "; want ", wanted));
}

std::vector<PipelineItem> GPipe(int m) {
  std::vector<PipelineItem> items;
  for (int i = 0; i < m; ++i) items.push_back({Kind::kForward, i});
  for (int i = 0; i < m; ++i) items.push_back({Kind::kBackward, i});
  return items;
}

// Forwards until the pipeline behind is full, then one backward for each
// forward, then the backwards that are left.
std::vector<PipelineItem> OneForwardOneBackward(int p, int m, int device,
                                                Kind backward) {
  std::vector<PipelineItem> items;
  int forward = 0;
  while (forward < std::min(p - 1 - device, m)) {
    items.push_back({Kind::kForward, forward++});
  }
  for (int i = 0; i < m; ++i) {
    if (forward < m) items.push_back({Kind::kForward, forward++});
    items.push_back({backward, i});
  }
  return items;
}

// Micro-batches in rounds of p; in a round, all chunks one after another.
std::vector<PipelineItem> Interleaved(int p, int m, int v, int device) {
  const int total = m * v;
  const auto item = [&](Kind kind, int index) {
    const int in_round = index % (p * v);
    const int chunk = in_round / p;
    return PipelineItem{kind, index / (p * v) * p + in_round % p,
                        kind == Kind::kForward ? chunk : v - 1 - chunk};
  };
  const int warm_up = std::min(2 * (p - 1 - device) + (v - 1) * p, total);
  std::vector<PipelineItem> items;
  int forward = 0;
  while (forward < warm_up) items.push_back(item(Kind::kForward, forward++));
  for (int i = 0; i < total; ++i) {
    if (forward < total) items.push_back(item(Kind::kForward, forward++));
    items.push_back(item(Kind::kBackward, i));
  }
  return items;
}

// 1F1B in which device d lags d weight gradients behind, so that it has them to
// fill the end with.
std::vector<PipelineItem> ZeroBubbleH1(int p, int m, int device) {
  std::vector<PipelineItem> items;
  int weight = 0;
  for (const PipelineItem& item :
       OneForwardOneBackward(p, m, device, Kind::kInputGrad)) {
    items.push_back(item);
    if (item.kind == Kind::kInputGrad && item.micro_batch >= device) {
      items.push_back({Kind::kWeightGrad, weight++});
    }
  }
  while (weight < m) items.push_back({Kind::kWeightGrad, weight++});
  return items;
}

// 1F1B's order of forwards and input gradients, with weight gradients put in
// by a rule, and where no forward may start because p micro-batches are held.
// Devices are advanced in the order of time, so that what a device will receive
// before a moment is known at that moment.
class ZeroBubble1p {
 public:
  enum class Rule {
    kFitting,  // Where the device would otherwise wait at least as long.
    kWaiting,  // Where it would wait at all.
    kLagging,  // As in ZB-H1.
  };

  ZeroBubble1p(const PipelineShape& shape, Rule rule)
      : shape_(shape), rule_(rule), device_(shape.num_devices) {
    for (int d = 0; d < shape.num_devices; ++d) {
      device_[d].order = OneForwardOneBackward(
          shape.num_devices, shape.num_micro_batches, d, Kind::kInputGrad);
    }
    const int64_t total =
        int64_t{3} * shape_.num_devices * shape_.num_micro_batches;
    for (int64_t i = 0; i < total; ++i) {
      Move first;
      int first_device = 0;
      for (int d = 0; d < shape_.num_devices; ++d) {
        const Move move = NextOf(d);
        if (move.start < first.start) {
          first = move;
          first_device = d;
        }
      }
      CHECK(first.start < kNever) << "no device can go on";
      Make(first_device, first);
    }
  }

  int64_t total() const {
    int64_t total = 0;
    for (const Device& device : device_) total = std::max(total, device.free);
    return total;
  }

  std::vector<std::vector<PipelineItem>> items() const {
    std::vector<std::vector<PipelineItem>> items;
    for (const Device& device : device_) items.push_back(device.items);
    return items;
  }

 private:
  static constexpr int64_t kNever = std::numeric_limits<int64_t>::max();

  struct Move {
    int64_t start = kNever;
    Kind kind = Kind::kForward;
  };
  struct Device {
    std::vector<PipelineItem> order;
    size_t next = 0;  // In `order`.
    int64_t free = 0;
    int weight = 0;                   // Weight gradients made.
    std::vector<int64_t> forward;     // End of each, so far.
    std::vector<int64_t> input_grad;  // Likewise.
    std::vector<PipelineItem> items;
  };

  // When what the next item in order reads is there.
  int64_t ReadyOf(int d, const PipelineItem& item) const {
    const size_t i = item.micro_batch;
    const auto end = [&](const std::vector<int64_t>& ends) {
      return i < ends.size() ? ends[i] : kNever;
    };
    if (item.kind == Kind::kForward) {
      return d == 0 ? 0 : end(device_[d - 1].forward);
    }
    return d + 1 == shape_.num_devices ? end(device_[d].forward)
                                       : end(device_[d + 1].input_grad);
  }

  // Whether a weight gradient, of `waiting` there are, goes before an item that
  // is ready at `ready`.
  bool IsDue(int d, int waiting, int64_t ready) const {
    if (waiting == 0) return false;
    const int64_t free = device_[d].free;
    switch (rule_) {
      case Rule::kFitting:
        return ready > free &&
               (ready == kNever || ready - free >= shape_.weight_grad);
      case Rule::kWaiting:
        return ready > free;
      case Rule::kLagging:
        return waiting > d;
    }
    return false;
  }

  Move NextOf(int d) const {
    const Device& device = device_[d];
    const int waiting =
        static_cast<int>(device.input_grad.size()) - device.weight;
    const Move weight = {device.free, Kind::kWeightGrad};
    if (device.next == device.order.size()) {
      return waiting > 0 ? weight : Move();
    }
    const PipelineItem& item = device.order[device.next];
    if (item.kind == Kind::kForward &&
        static_cast<int>(device.forward.size()) - device.weight >=
            shape_.num_devices) {
      return waiting > 0 ? weight : Move();
    }
    const int64_t ready = ReadyOf(d, item);
    if (IsDue(d, waiting, ready)) return weight;
    if (ready == kNever) return Move();
    return {std::max(ready, device.free), item.kind};
  }

  void Make(int d, const Move& move) {
    Device& device = device_[d];
    if (move.kind == Kind::kWeightGrad) {
      device.items.push_back({Kind::kWeightGrad, device.weight++});
      device.free = move.start + shape_.weight_grad;
      return;
    }
    device.items.push_back(device.order[device.next++]);
    const bool forward = move.kind == Kind::kForward;
    device.free = move.start + (forward ? shape_.forward : shape_.input_grad);
    (forward ? device.forward : device.input_grad).push_back(device.free);
  }

  PipelineShape shape_;
  Rule rule_;
  std::vector<Device> device_;
};

// By the rule that ends first; of equals the first here.
std::vector<std::vector<PipelineItem>> BestZeroBubble1p(
    const PipelineShape& shape) {
  using Rule = ZeroBubble1p::Rule;
  ZeroBubble1p best(shape, Rule::kFitting);
  for (const Rule rule : {Rule::kLagging, Rule::kWaiting}) {
    ZeroBubble1p other(shape, rule);
    if (other.total() < best.total()) best = std::move(other);
  }
  return best.items();
}

// The order of one device of DualPipe or DualPipeV. A device stands `from_edge`
// places from the pipeline's edge, of `half` places up to its middle. Chunk
// "near" gets its micro-batches from the edge, chunk "far" from the middle;
// `n` micro-batches pass each.
//
// From the edge the pipe fills with near forwards; once far ones come back from
// the middle, every far backward is paired with a near forward, and so on. At
// the end weight gradients are split off, so that input gradients reach the
// others sooner.
class DualOrder {
 public:
  DualOrder(int from_edge, int half, int n) {
    const int to_middle = half - 1 - from_edge;
    for (int i = 0; i < 2 * to_middle; ++i) Forward(kNear);
    for (int i = 0; i < from_edge + 1; ++i) {
      Forward(kNear);
      Forward(kFar);
    }
    for (int i = 0; i < to_middle; ++i) {
      InputGrad(kFar);
      WeightGrad();
      Forward(kFar);
    }
    const int num_steady = n - 2 * half + from_edge + 1;
    for (int i = 0; i < num_steady; ++i) {
      if (i == 0 && to_middle == 0) {
        // In the middle the first two would make everyone wait for both.
        Forward(kNear);
        Backward(kFar);
      } else {
        Pair(kNear, kFar);
      }
      Pair(kFar, kNear);
    }
    for (int i = 0; i < to_middle; ++i) {
      Backward(kFar);
      Pair(kFar, kNear);
    }
    // The later half of these leaves its weight gradients for the end.
    const int num_drain = 2 * (from_edge + 1);
    for (int i = 0; i < num_drain; ++i) {
      const Side side = i % 2 == 0 ? kFar : kNear;
      if (i > from_edge) {
        InputGrad(side);
      } else {
        Backward(side);
      }
    }
    for (int i = 0; i < to_middle; ++i) {
      WeightGrad();
      InputGrad(kNear);
    }
    while (waiting_ < split_.size()) WeightGrad();
    CHECK(forward_[kNear] == n && forward_[kFar] == n);
    CHECK(backward_[kNear] == n && backward_[kFar] == n);
  }

  // With kNear as chunk `near`, and micro-batches of the other chunk counted
  // from `second` on.
  std::vector<PipelineItem> Items(int near, int second) const {
    std::vector<PipelineItem> items = items_;
    for (PipelineItem& item : items) {
      item.chunk = item.chunk == kNear ? near : 1 - near;
      if (item.chunk == 1) item.micro_batch += second;
      if (item.kind != Kind::kForwardBackward) continue;
      item.backward_chunk = item.backward_chunk == kNear ? near : 1 - near;
      if (item.backward_chunk == 1) item.backward_micro_batch += second;
    }
    return items;
  }

 private:
  enum Side { kNear = 0, kFar = 1 };

  void Forward(Side side) {
    items_.push_back({Kind::kForward, forward_[side]++, side});
  }
  void Backward(Side side) {
    items_.push_back({Kind::kBackward, backward_[side]++, side});
  }
  void InputGrad(Side side) {
    items_.push_back({Kind::kInputGrad, backward_[side]++, side});
    split_.push_back(items_.back());
  }
  void WeightGrad() {
    PipelineItem item = split_[waiting_++];
    item.kind = Kind::kWeightGrad;
    items_.push_back(item);
  }
  void Pair(Side forward, Side backward) {
    items_.push_back({Kind::kForwardBackward, forward_[forward]++, forward,
                      backward_[backward]++, backward});
  }

  int forward_[2] = {0, 0};
  int backward_[2] = {0, 0};
  std::vector<PipelineItem> split_;  // Input gradients without the other half,
  size_t waiting_ = 0;               // from here on.
  std::vector<PipelineItem> items_;
};

std::vector<PipelineItem> ItemsOf(const PipelineShape& shape, int device) {
  const int p = shape.num_devices;
  const int m = shape.num_micro_batches;
  switch (shape.kind) {
    case PipelineKind::kGPipe:
      return GPipe(m);
    case PipelineKind::k1F1B:
      return OneForwardOneBackward(p, m, device, Kind::kBackward);
    case PipelineKind::kInterleaved:
      return Interleaved(p, m, shape.num_chunks, device);
    case PipelineKind::kZbH1:
      return ZeroBubbleH1(p, m, device);
    case PipelineKind::kDualPipe: {
      const bool first_half = device < p / 2;
      return DualOrder(first_half ? device : p - 1 - device, p / 2, m / 2)
          .Items(first_half ? 0 : 1, m / 2);
    }
    case PipelineKind::kDualPipeV:
      return DualOrder(device, p, m).Items(0, 0);
    case PipelineKind::kZb1p:
      break;  // Made for all devices at once.
  }
  return {};
}

absl::string_view Name(Kind kind) {
  switch (kind) {
    case Kind::kForward:
      return "forward";
    case Kind::kBackward:
      return "backward";
    case Kind::kInputGrad:
      return "input gradient";
    case Kind::kWeightGrad:
      return "weight gradient";
    case Kind::kForwardBackward:
      return "overlapped forward";
  }
  return "";
}

}  // namespace

absl::string_view Name(PipelineKind kind) {
  switch (kind) {
    case PipelineKind::kGPipe:
      return "gpipe";
    case PipelineKind::k1F1B:
      return "1f1b";
    case PipelineKind::kInterleaved:
      return "interleaved";
    case PipelineKind::kZbH1:
      return "zb-h1";
    case PipelineKind::kZb1p:
      return "zb1p";
    case PipelineKind::kDualPipe:
      return "dualpipe";
    case PipelineKind::kDualPipeV:
      return "dualpipev";
  }
  return "";
}

absl::StatusOr<PipelineKind> ParsePipelineKind(absl::string_view name) {
  std::vector<absl::string_view> names;
  for (const PipelineKind kind : kKinds) {
    if (Name(kind) == name) return kind;
    names.push_back(Name(kind));
  }
  return absl::InvalidArgumentError(absl::StrCat("no pipeline schedule \"",
                                                 name, "\"; there are ",
                                                 absl::StrJoin(names, ", ")));
}

bool operator==(const PipelineItem& a, const PipelineItem& b) {
  return a.kind == b.kind && a.micro_batch == b.micro_batch &&
         a.chunk == b.chunk &&
         a.backward_micro_batch == b.backward_micro_batch &&
         a.backward_chunk == b.backward_chunk;
}

std::string ToString(const PipelineItem& item) {
  std::string text = absl::StrCat(Name(item.kind), " of micro-batch ",
                                  item.micro_batch, ", chunk ", item.chunk);
  if (item.kind == Kind::kForwardBackward) {
    absl::StrAppend(&text, ", and backward of micro-batch ",
                    item.backward_micro_batch, ", chunk ", item.backward_chunk);
  }
  return text;
}

int PipelineSchedule::StageOf(int device, int chunk) const {
  if (IsDual(kind)) return chunk == 0 ? device : num_stages - 1 - device;
  return chunk * num_devices + device;
}

StagePlace PipelineSchedule::PlaceOf(int stage, int micro_batch) const {
  switch (kind) {
    case PipelineKind::kDualPipe:
      if (micro_batch < num_micro_batches / 2) return {stage, 0};
      return {num_stages - 1 - stage, 1};
    case PipelineKind::kDualPipeV:
      if (stage < num_devices) return {stage, 0};
      return {num_stages - 1 - stage, 1};
    default:
      return {stage % num_devices, stage / num_devices};
  }
}

absl::Status CheckPipelineShape(const PipelineShape& shape) {
  const int64_t p = shape.num_devices;
  const int64_t m = shape.num_micro_batches;
  const int64_t v = shape.num_chunks;
  if (p < 1) return Wrong(shape, "devices", p, "at least 1");
  if (m < 1) return Wrong(shape, "micro-batches", m, "at least 1");
  if (v < 1) return Wrong(shape, "chunks a device", v, "at least 1");
  if (m > kMaxItems || v > kMaxItems || m * v > kMaxItems ||
      p * m * v > kMaxItems / 3) {
    return absl::InvalidArgumentError(
        absl::StrCat(p, " devices times ", m, " micro-batches times ", v,
                     " chunks are too many items; want at most ", kMaxItems));
  }
  if (shape.kind == PipelineKind::kInterleaved) {
    if (v < 2) return Wrong(shape, "chunks a device", v, "at least 2");
    if (m % p != 0) {
      return Wrong(shape, "micro-batches", m,
                   absl::StrCat("a multiple of its ", p, " devices"));
    }
  } else if (v != 1 && !(IsDual(shape.kind) && v == 2)) {
    return Wrong(shape, "chunks a device", v,
                 IsDual(shape.kind) ? "2" : "1; only interleaved takes more");
  }
  if (IsDual(shape.kind)) {
    if (shape.kind == PipelineKind::kDualPipe && p % 2 != 0) {
      return Wrong(shape, "devices", p, "an even number");
    }
    if (shape.kind == PipelineKind::kDualPipe && m % 2 != 0) {
      return Wrong(shape, "micro-batches", m, "an even number");
    }
    if (m < 2 * p) {
      return Wrong(shape, "micro-batches", m,
                   absl::StrCat("at least twice its ", p, " devices"));
    }
  }
  if (shape.kind == PipelineKind::kZb1p) {
    // So that sums over all items fit.
    const int64_t max_duration =
        std::numeric_limits<int64_t>::max() / (12 * p * m);
    for (const int64_t duration :
         {shape.forward, shape.input_grad, shape.weight_grad}) {
      if (duration < 0 || duration > max_duration) {
        return Wrong(shape, "as a duration", duration,
                     absl::StrCat("0 to ", max_duration));
      }
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<PipelineSchedule> MakePipelineSchedule(
    const PipelineShape& shape) {
  RETURN_IF_ERROR(CheckPipelineShape(shape));
  PipelineSchedule schedule;
  schedule.kind = shape.kind;
  schedule.num_devices = shape.num_devices;
  schedule.num_micro_batches = shape.num_micro_batches;
  schedule.num_chunks = IsDual(shape.kind) ? 2 : shape.num_chunks;
  schedule.num_stages = shape.kind == PipelineKind::kDualPipe
                            ? shape.num_devices
                            : shape.num_devices * schedule.num_chunks;
  if (shape.kind == PipelineKind::kZb1p) {
    schedule.items = BestZeroBubble1p(shape);
    return schedule;
  }
  for (int device = 0; device < shape.num_devices; ++device) {
    schedule.items.push_back(ItemsOf(shape, device));
  }
  return schedule;
}

}  // namespace strata
