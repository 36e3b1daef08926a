#include "core/parallel/observed_communicator.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/base/status_macros.h"
#include "core/parallel/communicator.h"
#include "core/tensor/dtype.h"

namespace strata {
namespace {

// Splits of one group; more than any mesh makes.
constexpr int64_t kMaxSplits = 64;

class ObservedCommunicator : public Communicator {
 public:
  ObservedCommunicator(Communicator& inner, RankGroup group,
                       CommObserver& observer, int world_size)
      : inner_(inner),
        group_(std::move(group)),
        observer_(observer),
        world_size_(world_size) {}
  ObservedCommunicator(std::unique_ptr<Communicator> inner, RankGroup group,
                       CommObserver& observer, int world_size)
      : owned_(std::move(inner)),
        inner_(*owned_),
        group_(std::move(group)),
        observer_(observer),
        world_size_(world_size) {}

  int rank() const override { return inner_.rank(); }
  int size() const override { return inner_.size(); }
  absl::string_view name() const override { return inner_.name(); }

  absl::Status AllReduce(const Payload& data, ReduceOp op) override {
    return Call(Of(CommCall::Kind::kAllReduce, data.num_bytes()),
                [&] { return inner_.AllReduce(data, op); });
  }

  absl::Status AllGather(const Payload& in, absl::Span<const int64_t> counts,
                         const Payload& out) override {
    return Call(Of(CommCall::Kind::kAllGather, out.num_bytes()),
                [&] { return inner_.AllGather(in, counts, out); });
  }

  absl::Status ReduceScatter(const Payload& in,
                             absl::Span<const int64_t> counts,
                             const Payload& out) override {
    return Call(Of(CommCall::Kind::kReduceScatter, in.num_bytes()),
                [&] { return inner_.ReduceScatter(in, counts, out); });
  }

  absl::Status AllToAll(const Payload& in, absl::Span<const int64_t> send,
                        absl::Span<const int64_t> receive,
                        const Payload& out) override {
    CommCall call = Of(CommCall::Kind::kAllToAll, 0);
    call.sent = send;
    call.received = receive;
    call.element_bytes = SizeOf(in.dtype);
    return Call(call, [&] { return inner_.AllToAll(in, send, receive, out); });
  }

  absl::Status Broadcast(const Payload& data, int root) override {
    return Call(Of(CommCall::Kind::kBroadcast, data.num_bytes()),
                [&] { return inner_.Broadcast(data, root); });
  }

  absl::Status Send(const Payload& data, int to) override {
    CommCall call = Of(CommCall::Kind::kSend, data.num_bytes());
    call.peer = to;
    return Call(call, [&] { return inner_.Send(data, to); });
  }

  absl::Status Receive(const Payload& data, int from) override {
    CommCall call = Of(CommCall::Kind::kReceive, data.num_bytes());
    call.peer = from;
    return Call(call, [&] { return inner_.Receive(data, from); });
  }

  absl::Status Barrier() override {
    return Call(Of(CommCall::Kind::kBarrier, 0),
                [&] { return inner_.Barrier(); });
  }

  absl::StatusOr<std::unique_ptr<Communicator>> Split(
      int color, int key, absl::string_view name) override {
    int32_t mine[] = {color, key};
    std::vector<int32_t> all(2 * size());
    const std::vector<int64_t> counts(size(), 2);
    RETURN_IF_ERROR(inner_.AllGather(PayloadOf(absl::MakeSpan(mine)), counts,
                                     PayloadOf(absl::MakeSpan(all))));
    ASSIGN_OR_RETURN(std::unique_ptr<Communicator> part,
                     inner_.Split(color, key, name));
    const int64_t split = num_splits_++;
    if (part == nullptr) return part;
    std::vector<std::pair<int32_t, int>> members;  // Key, rank here.
    for (int r = 0; r < size(); ++r) {
      if (all[2 * r] == color) members.push_back({all[2 * r + 1], r});
    }
    std::sort(members.begin(), members.end());
    RankGroup group;
    group.name = std::string(name);
    for (const auto& member : members) {
      group.ranks.push_back(group_.ranks[member.second]);
    }
    group.number = 1 + (group_.number * kMaxSplits + split) * world_size_ +
                   *std::min_element(group.ranks.begin(), group.ranks.end());
    return std::make_unique<ObservedCommunicator>(
        std::move(part), std::move(group), observer_, world_size_);
  }

 private:
  CommCall Of(CommCall::Kind kind, int64_t bytes) const {
    CommCall call;
    call.kind = kind;
    call.group = &group_;
    call.bytes = bytes;
    return call;
  }

  template <typename Inner>
  absl::Status Call(const CommCall& call, const Inner& inner) {
    RETURN_IF_ERROR(observer_.Before(call, inner_));
    RETURN_IF_ERROR(inner());
    return observer_.After(call, inner_);
  }

  const std::unique_ptr<Communicator> owned_;
  Communicator& inner_;
  const RankGroup group_;
  CommObserver& observer_;
  const int world_size_;
  int64_t num_splits_ = 0;
};

}  // namespace

std::unique_ptr<Communicator> Observed(Communicator& world,
                                       CommObserver& observer) {
  RankGroup group;
  group.name = std::string(world.name());
  for (int r = 0; r < world.size(); ++r) group.ranks.push_back(r);
  return std::make_unique<ObservedCommunicator>(world, std::move(group),
                                                observer, world.size());
}

}  // namespace strata
