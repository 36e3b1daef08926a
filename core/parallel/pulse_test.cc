#include "core/parallel/pulse.h"

#include <algorithm>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "absl/types/span.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::IsEmpty;

constexpr int64_t kSecond = 1'000'000'000;

// Ranks on hosts, [ranks], that are told the time; what they send arrives at
// once, but for what is cut.
class Network {
 public:
  explicit Network(std::vector<std::string> hosts) : hosts_(std::move(hosts)) {
    const int n = hosts_.size();
    inbox_.resize(n);
    for (const std::string& host : hosts_) {
      if (table_[host] == nullptr) {
        table_[host] = std::make_unique<Pulse::Beat[]>(n + 1);
      }
    }
    for (int r = 0; r < n; ++r) {
      std::vector<PulsePlace> place;
      for (const std::string& host : hosts_) {
        place.push_back({host, host == hosts_[r]});
      }
      pulse_.push_back(
          std::make_unique<Pulse>(r, place, table_[hosts_[r]].get()));
    }
    for (int r = 0; r < n; ++r) {
      pulse_[r]->BeginExchange(Clock(r), absl::Seconds(1),
                               std::make_unique<Link>(this, r));
    }
  }

  // For so long all beat four times a second, but those that are stopped.
  void Wait(int seconds, const std::set<int>& stopped = {}) {
    for (int i = 0; i < 4 * seconds; ++i) {
      now_ += kSecond / 4;
      for (int r = 0; r < static_cast<int>(pulse_.size()); ++r) {
        if (stopped.count(r) == 0) pulse_[r]->BeatAt(Clock(r));
      }
    }
  }

  void Cut() { is_cut_ = true; }

  std::string Silent(int rank, int at_least) {
    return pulse_[rank]->SilentAt(Clock(rank), absl::Seconds(at_least));
  }

 private:
  struct Link : PulseLink {
    Link(Network* network, int rank) : network(network), rank(rank) {}

    void Send(absl::Span<const int64_t> message, int to) override {
      EXPECT_NE(network->hosts_[to], network->hosts_[rank]);
      if (network->is_cut_) return;
      network->inbox_[to].emplace_back(message.begin(), message.end());
    }

    bool Receive(absl::Span<int64_t> message) override {
      auto& inbox = network->inbox_[rank];
      if (inbox.empty()) return false;
      std::copy(inbox.front().begin(), inbox.front().end(), message.begin());
      inbox.pop_front();
      return true;
    }

    Network* network;
    int rank;
  };

  // Each host's clock began at another time.
  int64_t Clock(int rank) {
    return now_ + 1000 * kSecond * hosts_[rank].back();
  }

  const std::vector<std::string> hosts_;
  std::map<std::string, std::unique_ptr<Pulse::Beat[]>> table_;
  std::vector<std::unique_ptr<Pulse>> pulse_;
  std::vector<std::deque<std::vector<int64_t>>> inbox_;
  bool is_cut_ = false;
  int64_t now_ = kSecond;
};

TEST(PulseTest, ARankOfTheSameHostIsKnownWithoutMessages) {
  Pulse::Beat table[4] = {};
  const std::vector<PulsePlace> place(3, {"a", true});
  Pulse first(0, place, table), second(1, place, table);
  first.BeatAt(10 * kSecond);
  second.BeatAt(4 * kSecond);

  // The third has never beaten, so nothing is known of it.
  EXPECT_EQ(first.SilentAt(10 * kSecond, absl::Seconds(6)),
            "; rank 1 was last heard of 6s ago");
  EXPECT_THAT(first.SilentAt(10 * kSecond, absl::Seconds(7)), IsEmpty());
  EXPECT_THAT(second.SilentAt(10 * kSecond, absl::Seconds(1)), IsEmpty());
}

TEST(PulseTest, WhoIsStoppedIsKnownOnAllHosts) {
  for (const std::vector<std::string>& hosts :
       {std::vector<std::string>{"a", "b"},
        {"a", "a", "b", "b"},
        {"a", "b", "a", "b", "c"},
        {"a", "b", "c", "d", "e", "f", "g", "h"}}) {
    const int n = hosts.size();
    for (int stopped = 0; stopped < n; ++stopped) {
      Network network(hosts);
      network.Wait(10);
      for (int r = 0; r < n; ++r) EXPECT_THAT(network.Silent(r, 5), IsEmpty());

      network.Wait(20, {stopped});

      for (int r = 0; r < n; ++r) {
        if (r == stopped) continue;
        EXPECT_THAT(
            network.Silent(r, 10),
            testing::StartsWith("; rank " + std::to_string(stopped) + " on " +
                                hosts[stopped] + " was last heard of "))
            << n << " ranks, " << r;
        EXPECT_THAT(network.Silent(r, 10),
                    testing::Not(testing::HasSubstr("ago;")));
      }
    }
  }
}

TEST(PulseTest, OfACutLinkTheOtherHostIsSilent) {
  Network network({"a", "a", "b", "b", "c"});
  network.Wait(10);
  network.Cut();
  network.Wait(20);
  EXPECT_THAT(network.Silent(0, 10),
              testing::MatchesRegex(
                  "; ranks 2, 3, all on b, were last heard of [12][0-9]s ago"
                  "; rank 4 on c was last heard of [12][0-9]s ago"));
  EXPECT_THAT(network.Silent(4, 10),
              testing::MatchesRegex(
                  "; ranks 0, 1, all on a, were last heard of [12][0-9]s ago"
                  "; ranks 2, 3, all on b, were last heard of [12][0-9]s ago"));
}

TEST(PulseTest, ARankThatNeverCameIsSilentSinceTheBeginning) {
  Network network({"a", "b"});
  network.Wait(9, {1});
  EXPECT_EQ(network.Silent(0, 5), "; rank 1 on b was last heard of 9s ago");
}

TEST(PulseTest, OneOfAHostHasTheLastWord) {
  Pulse::Beat table[3] = {};
  const std::vector<PulsePlace> place(2, {"a", true});
  Pulse first(0, place, table), second(1, place, table);
  EXPECT_TRUE(second.ClaimLastWord());
  EXPECT_FALSE(first.ClaimLastWord());
  EXPECT_FALSE(second.ClaimLastWord());
}

}  // namespace
}  // namespace strata
