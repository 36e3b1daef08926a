#include "core/parallel/communicator_suite.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <numeric>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "core/base/random.h"
#include "core/parallel/communicator.h"
#include "core/tensor/dtype.h"

namespace strata {
namespace {

// Elements of a rank's data: few, and more than messages are sent whole with.
constexpr int64_t kCounts[] = {0, 1, 2, 7, 1000, 70'001};

class Suite {
 public:
  explicit Suite(Communicator& group) : group_(group), size_(group.size()) {}

  void RunAll() {
    for (const int64_t n : kCounts) {
      Sums<float>(n);
      Sums<double>(n);
      Sums<int32_t>(n);
      Maxima(n);
      Gathers(n);
      Scatters(n);
      Exchanges(n);
      Broadcasts(n);
      Messages(n);
    }
    ManyMessages();
    Expect("barrier", group_.Barrier());
  }

  std::vector<std::string> failures() && { return std::move(failures_); }

 private:
  // Small integers, so that sums of any order are exact.
  static int Value(int rank, int64_t i) {
    return static_cast<int>((rank * 7 + i * 3 + i / 5) % 23) - 8;
  }
  template <typename T>
  std::vector<T> Values(int rank, int64_t n) const {
    std::vector<T> values(n);
    for (int64_t i = 0; i < n; ++i) {
      values[i] = static_cast<T>(Value(rank, i));
    }
    return values;
  }
  // Pieces of about n elements, some of none; the same on every rank.
  std::vector<int64_t> Pieces(int64_t n, int salt) const {
    std::vector<int64_t> pieces(size_);
    for (int r = 0; r < size_; ++r) pieces[r] = n * ((r + salt) % 3) / 2;
    return pieces;
  }
  static int64_t Sum(const std::vector<int64_t>& counts) {
    return std::accumulate(counts.begin(), counts.end(), int64_t{0});
  }

  void Expect(const std::string& what, const absl::Status& status) {
    if (!status.ok()) Fail(what, std::string(status.message()));
  }
  template <typename T>
  void ExpectEqual(const std::string& what, const std::vector<T>& got,
                   const std::vector<T>& want) {
    if (got == want) return;
    const auto at = std::mismatch(got.begin(), got.end(), want.begin());
    Fail(what,
         absl::StrCat("element ", at.first - got.begin(), " of ", got.size(),
                      " is ", *at.first, "; want ", *at.second));
  }
  void Fail(const std::string& what, const std::string& how) {
    failures_.push_back(absl::StrCat(group_.name(), " of ", size_, ", rank ",
                                     group_.rank(), ": ", what, ": ", how));
  }

  template <typename T>
  void Sums(int64_t n) {
    const std::string what =
        absl::StrCat("sum of ", n, " ", Name(DTypeOf<T>()));
    std::vector<T> data = Values<T>(group_.rank(), n), want(n);
    for (int r = 0; r < size_; ++r) {
      for (int64_t i = 0; i < n; ++i) want[i] += static_cast<T>(Value(r, i));
    }
    Expect(what,
           group_.AllReduce(PayloadOf(absl::MakeSpan(data)), ReduceOp::kSum));
    ExpectEqual(what, data, want);
    if constexpr (sizeof(T) == sizeof(float) && !std::is_integral_v<T>) {
      SumsRepeat(n);
    }
  }

  // Of numbers whose sum depends on the order.
  void SumsRepeat(int64_t n) {
    const std::string what = absl::StrCat("repeated sum of ", n);
    std::vector<float> first;
    for (int turn = 0; turn < 2; ++turn) {
      Random random(/*seed=*/n, group_.rank());
      std::vector<float> data(n);
      for (float& x : data) x = static_cast<float>(random.Normal());
      Expect(what,
             group_.AllReduce(PayloadOf(absl::MakeSpan(data)), ReduceOp::kSum));
      if (turn == 0) {
        first = data;
        continue;
      }
      ExpectEqual(what, data, first);
    }
    // Every rank has the bits of rank 0.
    std::vector<float> of_first = first;
    Expect(what, group_.Broadcast(PayloadOf(absl::MakeSpan(of_first)), 0));
    ExpectEqual(what, of_first, first);
  }

  void Maxima(int64_t n) {
    const std::string what = absl::StrCat("maximum of ", n);
    std::vector<double> data = Values<double>(group_.rank(), n), want = data;
    for (int r = 0; r < size_; ++r) {
      for (int64_t i = 0; i < n; ++i) {
        want[i] = std::max(want[i], static_cast<double>(Value(r, i)));
      }
    }
    Expect(what,
           group_.AllReduce(PayloadOf(absl::MakeSpan(data)), ReduceOp::kMax));
    ExpectEqual(what, data, want);
  }

  void Gathers(int64_t n) {
    const std::string what = absl::StrCat("gather of ", n);
    const std::vector<int64_t> counts = Pieces(n, 1);
    std::vector<uint8_t> in =
        Values<uint8_t>(group_.rank(), counts[group_.rank()]);
    std::vector<uint8_t> out(Sum(counts), 255), want;
    for (int r = 0; r < size_; ++r) {
      const std::vector<uint8_t> piece = Values<uint8_t>(r, counts[r]);
      want.insert(want.end(), piece.begin(), piece.end());
    }
    Expect(what, group_.AllGather(PayloadOf(absl::MakeSpan(in)), counts,
                                  PayloadOf(absl::MakeSpan(out))));
    ExpectEqual(what, out, want);
  }

  void Scatters(int64_t n) {
    const std::string what = absl::StrCat("scattered sum of ", n);
    const std::vector<int64_t> counts = Pieces(n, 2);
    std::vector<float> in = Values<float>(group_.rank(), Sum(counts));
    const auto begin = std::accumulate(
        counts.begin(), counts.begin() + group_.rank(), int64_t{0});
    std::vector<float> out(counts[group_.rank()], -1), want(out.size());
    for (int r = 0; r < size_; ++r) {
      for (size_t i = 0; i < want.size(); ++i) {
        want[i] += static_cast<float>(Value(r, begin + i));
      }
    }
    Expect(what, group_.ReduceScatter(PayloadOf(absl::MakeSpan(in)), counts,
                                      PayloadOf(absl::MakeSpan(out))));
    ExpectEqual(what, out, want);
  }

  void Exchanges(int64_t n) {
    Exchange(absl::StrCat("exchange of ", n),
             [&](int a, int b) { return n * ((a + 2 * b) % 3) / 2; });
    Exchange(absl::StrCat("exchange of ", n, ", of which rank 0 has none"),
             [&](int a, int b) { return a == 0 || b == 0 ? 0 : n; });
  }

  // From rank a to rank b go count(a, b) elements of 100 a + b.
  template <typename Count>
  void Exchange(const std::string& what, Count count) {
    const int me = group_.rank();
    std::vector<int64_t> send, receive;
    std::vector<int32_t> in, want;
    for (int r = 0; r < size_; ++r) {
      send.push_back(count(me, r));
      receive.push_back(count(r, me));
      in.insert(in.end(), send.back(), 100 * me + r);
      want.insert(want.end(), receive.back(), 100 * r + me);
    }
    std::vector<int32_t> out(want.size(), -1);
    Expect(what, group_.AllToAll(PayloadOf(absl::MakeSpan(in)), send, receive,
                                 PayloadOf(absl::MakeSpan(out))));
    ExpectEqual(what, out, want);
  }

  void Broadcasts(int64_t n) {
    for (const int root : {0, size_ - 1}) {
      const std::string what = absl::StrCat("broadcast of ", n);
      std::vector<int64_t> data = Values<int64_t>(group_.rank(), n);
      Expect(what, group_.Broadcast(PayloadOf(absl::MakeSpan(data)), root));
      ExpectEqual(what, data, Values<int64_t>(root, n));
    }
  }

  // Round a ring, everyone sending before anyone receives.
  void Messages(int64_t n) {
    const std::string what = absl::StrCat("message of ", n);
    const int next = (group_.rank() + 1) % size_;
    const int before = (group_.rank() + size_ - 1) % size_;
    std::vector<float> out = Values<float>(group_.rank(), n), in(n, -1);
    Expect(what, group_.Send(PayloadOf(absl::MakeSpan(out)), next));
    std::fill(out.begin(), out.end(), -1);  // It was copied.
    Expect(what, group_.Receive(PayloadOf(absl::MakeSpan(in)), before));
    ExpectEqual(what, in, Values<float>(before, n));
  }

  // All to all by messages, several on the way, in order for each pair.
  void ManyMessages() {
    constexpr int kRounds = 20;
    for (int round = 0; round < kRounds; ++round) {
      for (int r = 0; r < size_; ++r) {
        std::vector<int32_t> out(round * 100 + 1, group_.rank() * 50 + round);
        Expect("many messages", group_.Send(PayloadOf(absl::MakeSpan(out)), r));
      }
    }
    for (int r = size_ - 1; r >= 0; --r) {
      for (int round = 0; round < kRounds; ++round) {
        std::vector<int32_t> in(round * 100 + 1, -1);
        Expect("many messages",
               group_.Receive(PayloadOf(absl::MakeSpan(in)), r));
        ExpectEqual("many messages", in,
                    std::vector<int32_t>(in.size(), r * 50 + round));
      }
    }
  }

  Communicator& group_;
  const int size_;
  std::vector<std::string> failures_;
};

}  // namespace

std::vector<std::string> RunSuiteOnTwoThreads(Communicator& world) {
  const auto twin = world.Split(/*color=*/0, -world.rank(), "twin");
  if (!twin.ok()) {
    return {absl::StrCat("split: ", twin.status().message())};
  }
  std::vector<std::string> failures, of_twin;
  std::thread thread([&] {
    Suite suite(**twin);
    suite.RunAll();
    of_twin = std::move(suite).failures();
  });
  Suite suite(world);
  suite.RunAll();
  failures = std::move(suite).failures();
  thread.join();
  failures.insert(failures.end(), of_twin.begin(), of_twin.end());
  return failures;
}

std::vector<std::string> RunCommunicatorSuite(Communicator& world) {
  std::vector<std::string> failures;
  const auto run = [&](Communicator& group) {
    Suite suite(group);
    suite.RunAll();
    std::vector<std::string> found = std::move(suite).failures();
    failures.insert(failures.end(), found.begin(), found.end());
  };
  const auto split = [&](int color, int key, absl::string_view name) {
    auto part = world.Split(color, key, name);
    if (part.ok()) return *std::move(part);
    failures.push_back(absl::StrCat("split: ", part.status().message()));
    return std::unique_ptr<Communicator>();
  };

  run(world);
  const int rank = world.rank(), size = world.size();
  // Even and odd ranks, the latter backwards; and both at once with a group of
  // neighbours, a group of each alone, and one that some stay out of.
  const auto parity = split(rank % 2, rank % 2 == 0 ? rank : -rank, "parity");
  const auto pairs = split(rank / 2, rank, "pairs");
  const auto alone = split(rank, 0, "alone");
  const auto some =
      split(rank % 3 == 0 ? 5 : Communicator::kNoColor, rank, "some");
  if (!failures.empty()) return failures;
  if ((some != nullptr) != (rank % 3 == 0)) {
    failures.push_back("a rank of no color has a group");
  }
  if (alone->size() != 1 || pairs->rank() != rank % 2) {
    failures.push_back("a split has other ranks than its colors");
  }
  const int odd = size / 2;
  if (rank % 2 == 1 && parity->rank() != odd - 1 - rank / 2) {
    failures.push_back("a split is not in the order of its keys");
  }
  for (Communicator* const group :
       {parity.get(), pairs.get(), alone.get(), some.get()}) {
    if (group != nullptr) run(*group);
  }
  // Groups in turns: what one has under way does not disturb the other.
  for (int turn = 0; turn < 5; ++turn) {
    for (Communicator* const group : {parity.get(), pairs.get(), &world}) {
      std::vector<int32_t> one = {1};
      const absl::Status status =
          group->AllReduce(PayloadOf(absl::MakeSpan(one)), ReduceOp::kSum);
      if (!status.ok() || one[0] != group->size()) {
        failures.push_back(absl::StrCat(group->name(), ": groups in turns"));
      }
    }
  }
  return failures;
}

}  // namespace strata
