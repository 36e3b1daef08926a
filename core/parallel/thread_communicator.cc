#include "core/parallel/thread_communicator.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "core/base/status_macros.h"
#include "core/parallel/collective_checks.h"
#include "core/parallel/combine.h"
#include "core/parallel/communicator.h"
#include "core/parallel/rank_wait.h"
#include "core/tensor/dtype.h"

namespace strata {
namespace {

int64_t Sum(absl::Span<const int64_t> counts, int end) {
  int64_t sum = 0;
  for (int r = 0; r < end; ++r) sum += counts[r];
  return sum;
}

// What a rank brings to a call, for the others to read.
struct Call {
  std::string what;  // "all_reduce of 12 F32": must agree.
  const char* in = nullptr;
  char* data = nullptr;
  std::vector<int64_t> counts;    // AllToAll's `send`,
  std::vector<int64_t> expected;  // and `receive`.
  int color = 0, key = 0;
};

// What the ranks of a group share.
struct Group {
  Group(int n, absl::Duration wait, absl::string_view label)
      : size(n), timeout(wait), name(label), calls(n), arrived(n, false) {}

  const int size;
  const absl::Duration timeout;
  const std::string name;

  absl::Mutex mutex;
  std::vector<Call> calls;  // By rank; read between two meetings.
  // A meeting ends when all have arrived.
  std::vector<bool> arrived ABSL_GUARDED_BY(mutex);
  int num_arrived ABSL_GUARDED_BY(mutex) = 0;
  int64_t meeting ABSL_GUARDED_BY(mutex) = 0;
  absl::Status broken ABSL_GUARDED_BY(mutex);
  // By sender and receiver.
  std::map<std::pair<int, int>, std::deque<std::string>> messages
      ABSL_GUARDED_BY(mutex);
  // Made by the lowest rank of each color during a split.
  std::map<int, std::shared_ptr<Group>> parts ABSL_GUARDED_BY(mutex);
};

class ThreadCommunicator : public Communicator {
 public:
  ThreadCommunicator(std::shared_ptr<Group> group, int rank)
      : group_(std::move(group)), rank_(rank) {}

  int rank() const override { return rank_; }
  int size() const override { return group_->size; }
  absl::string_view name() const override { return group_->name; }

  absl::Status AllReduce(const Payload& data, ReduceOp op) override {
    RETURN_IF_ERROR(CheckReducible(*this, "all_reduce", data));
    Call call = CallOf("all_reduce", data);
    call.data = static_cast<char*>(data.data);
    RETURN_IF_ERROR(Meet(std::move(call)));
    // Each rank sums a slice into its own data, whose slice nobody else reads;
    // then takes the other slices from those that summed them.
    const int64_t width = SizeOf(data.dtype);
    const auto bound = [&](int r) { return data.count * r / size() * width; };
    const int64_t begin = bound(rank_);
    const int64_t n = (bound(rank_ + 1) - begin) / width;
    std::vector<char> sum(n * width);
    for (int r = 0; r < size(); ++r) {
      const char* const from = group_->calls[r].data + begin;
      if (r == 0) {
        std::copy(from, from + n * width, sum.data());
      } else {
        Combine(from, n, data.dtype, op, sum.data());
      }
    }
    char* const to = static_cast<char*>(data.data);
    std::copy(sum.begin(), sum.end(), to + begin);
    RETURN_IF_ERROR(Meet());
    for (int r = 0; r < size(); ++r) {
      if (r == rank_) continue;
      std::copy(group_->calls[r].data + bound(r),
                group_->calls[r].data + bound(r + 1), to + bound(r));
    }
    return Meet();
  }

  absl::Status AllGather(const Payload& in, absl::Span<const int64_t> counts,
                         const Payload& out) override {
    RETURN_IF_ERROR(CheckAllGather(*this, in, counts, out));
    Call call = CallOf("all_gather", out);
    call.in = static_cast<const char*>(in.data);
    RETURN_IF_ERROR(Meet(std::move(call)));
    char* to = static_cast<char*>(out.data);
    for (int r = 0; r < size(); ++r) {
      const int64_t bytes = counts[r] * SizeOf(in.dtype);
      to = std::copy_n(group_->calls[r].in, bytes, to);
    }
    return Meet();
  }

  absl::Status ReduceScatter(const Payload& in,
                             absl::Span<const int64_t> counts,
                             const Payload& out) override {
    RETURN_IF_ERROR(CheckReduceScatter(*this, in, counts, out));
    Call call = CallOf("reduce_scatter", in);
    call.in = static_cast<const char*>(in.data);
    RETURN_IF_ERROR(Meet(std::move(call)));
    const int64_t width = SizeOf(in.dtype);
    const int64_t begin = Sum(counts, rank_) * width;
    char* const to = static_cast<char*>(out.data);
    for (int r = 0; r < size(); ++r) {
      const char* const from = group_->calls[r].in + begin;
      if (r == 0) {
        std::copy_n(from, out.count * width, to);
      } else {
        Combine(from, out.count, in.dtype, ReduceOp::kSum, to);
      }
    }
    return Meet();
  }

  absl::Status AllToAll(const Payload& in, absl::Span<const int64_t> send,
                        absl::Span<const int64_t> receive,
                        const Payload& out) override {
    RETURN_IF_ERROR(CheckAllToAll(*this, in, send, receive, out));
    Call call;
    call.what = absl::StrCat("all_to_all of ", Name(in.dtype));
    call.in = static_cast<const char*>(in.data);
    call.counts.assign(send.begin(), send.end());
    call.expected.assign(receive.begin(), receive.end());
    RETURN_IF_ERROR(Meet(std::move(call)));
    RETURN_IF_ERROR(CheckCounts());
    const int64_t width = SizeOf(in.dtype);
    char* to = static_cast<char*>(out.data);
    for (int r = 0; r < size(); ++r) {
      const Call& from = group_->calls[r];
      to = std::copy_n(from.in + Sum(from.counts, rank_) * width,
                       receive[r] * width, to);
    }
    return Meet();
  }

  absl::Status Broadcast(const Payload& data, int root) override {
    RETURN_IF_ERROR(CheckRank(*this, "broadcast", root));
    Call call = CallOf(absl::StrCat("broadcast from rank ", root), data);
    call.data = static_cast<char*>(data.data);
    RETURN_IF_ERROR(Meet(std::move(call)));
    if (rank_ != root) {
      std::copy_n(group_->calls[root].data, data.num_bytes(),
                  static_cast<char*>(data.data));
    }
    return Meet();
  }

  absl::Status Send(const Payload& data, int to) override {
    RETURN_IF_ERROR(CheckRank(*this, "send", to));
    absl::MutexLock lock(&group_->mutex);
    RETURN_IF_ERROR(group_->broken);
    group_->messages[{rank_, to}].emplace_back(
        static_cast<const char*>(data.data), data.num_bytes());
    return absl::OkStatus();
  }

  absl::Status Receive(const Payload& data, int from) override {
    RETURN_IF_ERROR(CheckRank(*this, "receive", from));
    absl::MutexLock lock(&group_->mutex);
    std::deque<std::string>& queue = group_->messages[{from, rank_}];
    const auto is_there = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(group_->mutex) {
      return !queue.empty() || !group_->broken.ok();
    };
    const RankWait waiting;
    if (!group_->mutex.AwaitWithTimeout(absl::Condition(&is_there),
                                        group_->timeout)) {
      group_->broken = LateError(*this, "receive", {from}, group_->timeout);
    }
    RETURN_IF_ERROR(group_->broken);
    const std::string message = std::move(queue.front());
    queue.pop_front();
    if (static_cast<int64_t>(message.size()) != data.num_bytes()) {
      return group_->broken = SizeError(*this, from, message.size(), data);
    }
    std::copy(message.begin(), message.end(), static_cast<char*>(data.data));
    return absl::OkStatus();
  }

  absl::Status Barrier() override {
    Call call;
    call.what = "barrier";
    RETURN_IF_ERROR(Meet(std::move(call)));
    return Meet();
  }

  absl::StatusOr<std::unique_ptr<Communicator>> Split(
      int color, int key, absl::string_view name) override {
    Call mine;
    mine.what = "split";
    mine.color = color;
    mine.key = key;
    RETURN_IF_ERROR(Meet(std::move(mine)));
    std::vector<std::pair<int, int>> members;  // Key, rank.
    for (int r = 0; r < size(); ++r) {
      const Call& call = group_->calls[r];
      if (call.color == color) members.push_back({call.key, r});
    }
    std::sort(members.begin(), members.end());
    std::shared_ptr<Group> part;
    int rank = 0;
    if (color != kNoColor) {
      rank = static_cast<int>(
          std::find(members.begin(), members.end(), std::pair(key, rank_)) -
          members.begin());
      absl::MutexLock lock(&group_->mutex);
      std::shared_ptr<Group>& shared = group_->parts[color];
      if (shared == nullptr) {
        shared = std::make_shared<Group>(static_cast<int>(members.size()),
                                         group_->timeout, name);
      }
      part = shared;
    }
    RETURN_IF_ERROR(Meet());
    {
      absl::MutexLock lock(&group_->mutex);
      group_->parts.clear();
    }
    RETURN_IF_ERROR(Meet());
    if (part == nullptr) return nullptr;
    return std::make_unique<ThreadCommunicator>(std::move(part), rank);
  }

 private:
  static Call CallOf(absl::string_view name, const Payload& data) {
    Call call;
    call.what = absl::StrCat(name, " of ", data.count, " ", Name(data.dtype));
    return call;
  }

  // Waits until all ranks have come with a call, and checks that they agree.
  absl::Status Meet(Call call) {
    {
      // After an error others may still read what was brought.
      absl::MutexLock lock(&group_->mutex);
      RETURN_IF_ERROR(group_->broken);
    }
    group_->calls[rank_] = std::move(call);
    RETURN_IF_ERROR(Meet());
    const Call& first = group_->calls[0];
    for (int r = 1; r < size(); ++r) {
      const Call& other = group_->calls[r];
      if (other.what == first.what) continue;
      // Every rank sees it.
      const absl::Status status = absl::InvalidArgumentError(
          absl::StrCat(name(), ": rank ", r, " calls ", other.what, ", rank 0 ",
                       first.what));
      Break(status);
      return status;
    }
    return absl::OkStatus();
  }

  // That all ranks send what the others expect. Every rank sees all that do
  // not, so none reads from one that has given up.
  absl::Status CheckCounts() {
    for (int from = 0; from < size(); ++from) {
      for (int to = 0; to < size(); ++to) {
        const int64_t sent = group_->calls[from].counts[to];
        const int64_t expected = group_->calls[to].expected[from];
        if (sent == expected) continue;
        const absl::Status status = absl::InvalidArgumentError(absl::StrCat(
            name(), ": all_to_all: rank ", from, " sends ", sent,
            " elements to rank ", to, ", which expects ", expected));
        Break(status);
        return status;
      }
    }
    return absl::OkStatus();
  }

  // Waits until all ranks have come.
  absl::Status Meet() {
    absl::MutexLock lock(&group_->mutex);
    RETURN_IF_ERROR(group_->broken);
    const int64_t meeting = group_->meeting;
    group_->arrived[rank_] = true;
    if (++group_->num_arrived == size()) {
      std::fill(group_->arrived.begin(), group_->arrived.end(), false);
      group_->num_arrived = 0;
      ++group_->meeting;
      return absl::OkStatus();
    }
    const auto is_over = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(group_->mutex) {
      return group_->meeting != meeting || !group_->broken.ok();
    };
    const RankWait waiting;
    if (!group_->mutex.AwaitWithTimeout(absl::Condition(&is_over),
                                        group_->timeout)) {
      std::vector<int> missing;
      for (int r = 0; r < size(); ++r) {
        if (!group_->arrived[r]) missing.push_back(r);
      }
      group_->broken =
          LateError(*this, group_->calls[rank_].what, missing, group_->timeout);
    }
    // What broke after this meeting is the next one's error.
    return group_->meeting != meeting ? absl::OkStatus() : group_->broken;
  }

  void Break(const absl::Status& status) {
    absl::MutexLock lock(&group_->mutex);
    group_->broken.Update(status);
  }

  const std::shared_ptr<Group> group_;
  const int rank_;
};

}  // namespace

std::vector<std::unique_ptr<Communicator>> ThreadCommunicators(
    int size, absl::Duration timeout, absl::string_view name) {
  const auto group = std::make_shared<Group>(size, timeout, name);
  std::vector<std::unique_ptr<Communicator>> communicators;
  for (int rank = 0; rank < size; ++rank) {
    communicators.push_back(std::make_unique<ThreadCommunicator>(group, rank));
  }
  return communicators;
}

}  // namespace strata
