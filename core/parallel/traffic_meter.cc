#include "core/parallel/traffic_meter.h"

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/base/status_macros.h"
#include "core/parallel/communicator.h"
#include "core/tensor/dtype.h"

namespace strata {
namespace {

class CountedCommunicator : public Communicator {
 public:
  CountedCommunicator(Communicator& group, TrafficMeter& meter)
      : group_(group), meter_(meter) {}
  CountedCommunicator(std::unique_ptr<Communicator> group, TrafficMeter& meter)
      : owned_(std::move(group)), group_(*owned_), meter_(meter) {}

  int rank() const override { return group_.rank(); }
  int size() const override { return group_.size(); }
  absl::string_view name() const override { return group_.name(); }

  absl::Status AllReduce(const Payload& data, ReduceOp op) override {
    Count(2 * (size() - 1), 2 * OthersShare(data.num_bytes()));
    return group_.AllReduce(data, op);
  }

  absl::Status AllGather(const Payload& in, absl::Span<const int64_t> counts,
                         const Payload& out) override {
    Count(size() - 1, OthersShare(out.num_bytes()));
    return group_.AllGather(in, counts, out);
  }

  absl::Status ReduceScatter(const Payload& in,
                             absl::Span<const int64_t> counts,
                             const Payload& out) override {
    Count(size() - 1, OthersShare(in.num_bytes()));
    return group_.ReduceScatter(in, counts, out);
  }

  absl::Status AllToAll(const Payload& in, absl::Span<const int64_t> send,
                        absl::Span<const int64_t> receive,
                        const Payload& out) override {
    int64_t elements = 0;
    for (int r = 0; r < static_cast<int>(send.size()); ++r) {
      if (r != rank()) elements += send[r];
    }
    Count(size() - 1, static_cast<double>(elements * SizeOf(in.dtype)));
    return group_.AllToAll(in, send, receive, out);
  }

  absl::Status Broadcast(const Payload& data, int root) override {
    Count(size() - 1, OthersShare(data.num_bytes()));
    return group_.Broadcast(data, root);
  }

  absl::Status Send(const Payload& data, int to) override {
    Count(1, static_cast<double>(data.num_bytes()));
    return group_.Send(data, to);
  }

  absl::Status Receive(const Payload& data, int from) override {
    return group_.Receive(data, from);
  }

  absl::Status Barrier() override { return group_.Barrier(); }

  absl::StatusOr<std::unique_ptr<Communicator>> Split(
      int color, int key, absl::string_view name) override {
    ASSIGN_OR_RETURN(std::unique_ptr<Communicator> part,
                     group_.Split(color, key, name));
    if (part == nullptr) return part;
    return std::make_unique<CountedCommunicator>(std::move(part), meter_);
  }

 private:
  double OthersShare(int64_t bytes) const {
    return static_cast<double>(bytes) * (size() - 1) / size();
  }
  void Count(int64_t steps, double bytes) {
    if (size() > 1) meter_.Add(name(), steps, bytes);
  }

  const std::unique_ptr<Communicator> owned_;
  Communicator& group_;
  TrafficMeter& meter_;
};

}  // namespace

void TrafficMeter::Add(absl::string_view group, int64_t steps, double bytes) {
  Traffic& traffic = traffic_[std::string(group)];
  ++traffic.calls;
  traffic.steps += steps;
  traffic.bytes += bytes;
}

std::unique_ptr<Communicator> WithTraffic(Communicator& group,
                                          TrafficMeter& meter) {
  return std::make_unique<CountedCommunicator>(group, meter);
}

}  // namespace strata
