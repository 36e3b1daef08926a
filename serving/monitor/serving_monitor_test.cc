#include "serving/monitor/serving_monitor.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <thread>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "core/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "httplib.h"
#include "nlohmann/json.hpp"
#include "serving/engine/engine.h"
#include "serving/monitor/webhook.h"

namespace strata {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::ordered_json;

// Counts that grow by a window of skewed loads each time: two tiers, of whose
// experts the n-th liked gets 1 / n as much as the first.
class Traffic {
 public:
  Traffic() {
    sample_.version = "v1";
    sample_.gates = {{0, 0, 0, std::vector<int64_t>(16)},
                     {0, 1, 0, std::vector<int64_t>(16)}};
    sample_.stats.num_blocks = 100;
  }
  const MonitorSample& Next() {
    for (GateLoad& gate : sample_.gates) {
      gate.tokens += gate.tier == 0 ? 1000 : 400;
      for (int e = 0; e < 16; ++e) {
        gate.rows[e] += 1000 / (1 + (e * 5 + gate.tier) % 16);
      }
    }
    sample_.stats.generated_tokens += 1000;
    sample_.stats.step_seconds += 2;
    sample_.stats.num_finished[0] += 10;
    return sample_;
  }
  MonitorSample& sample() { return sample_; }

 private:
  MonitorSample sample_;
};

absl::Time At(int window) {
  return absl::UnixEpoch() + absl::Seconds(5 * window);
}

TEST(ServingMonitorTest, TheSpreadCallsTheBalancerAndComesDown) {
  std::vector<Json> told;
  MonitorOptions options;
  options.on_alarm = [&](const Json& alarm) { told.push_back(alarm); };
  ServingMonitor monitor(options);
  Traffic traffic;
  int window = 0;
  while (monitor.num_rebalances() == 0 && window < 10) {
    monitor.Observe(traffic.Next(), At(window++));
  }
  ASSERT_EQ(monitor.num_rebalances(), 1);
  const double before = monitor.spread();
  EXPECT_GT(before, kMaxUtilisationSpread);
  EXPECT_EQ(monitor.Alarms()["alarms"][0]["alarm"], "rank_utilisation_spread");

  for (int i = 0; i < 5; ++i) monitor.Observe(traffic.Next(), At(window++));

  EXPECT_LT(monitor.spread(), kMaxUtilisationSpread);
  EXPECT_TRUE(monitor.Alarms()["alarms"].empty());
  EXPECT_EQ(monitor.num_rebalances(), 1);
  ASSERT_EQ(told.size(), 3);
  EXPECT_EQ(told[0]["state"], "raised");
  EXPECT_EQ(told[1]["rebalance"], "done");
  EXPECT_LT(told[1]["spread_after"], told[1]["spread_before"]);
  EXPECT_EQ(told[2]["state"], "cleared");
}

TEST(ServingMonitorTest, MetricsAreFewHoweverManyExperts) {
  ServingMonitor monitor({});
  Traffic traffic;
  monitor.Observe(traffic.Next(), At(0));
  monitor.Observe(traffic.Next(), At(1));
  const std::string text = monitor.MetricsText("a \"b\"");
  EXPECT_THAT(text, HasSubstr("{model_name=\"a \\\"b\\\"\",tier=\"1\"} "));
  EXPECT_THAT(text, HasSubstr("strata:tier_reach_ratio"));
  // Rows of a window: 1000 (1 + 1/2 + ... + 1/16), rounded down, over 16000.
  EXPECT_THAT(text, HasSubstr("tier=\"0\"} 0.2109"));
  EXPECT_LT(std::count(text.begin(), text.end(), '\n'), 40);
}

TEST(ServingMonitorTest, FailuresAndSlownessRaiseAlarms) {
  ServingMonitor monitor({});
  Traffic traffic;
  int window = 0;
  for (; window < 60; ++window) monitor.Observe(traffic.Next(), At(window));
  for (int i = 0; i < 3; ++i) {
    traffic.sample()
        .stats.num_finished[static_cast<int>(FinishReason::kFailed)] += 5;
    traffic.sample().stats.step_seconds += 20;
    traffic.sample().stats.num_used_blocks = 99;
    monitor.Observe(traffic.Next(), At(window++));
  }
  const Json alarms = monitor.Alarms();
  std::vector<std::string> names;
  for (const Json& alarm : alarms["alarms"]) {
    names.push_back(alarm["alarm"]);
  }
  EXPECT_THAT(names, testing::UnorderedElementsAre("answers_fail", "cache_full",
                                                   "slow_tokens"));
}

TEST(ServingMonitorTest, AnotherVersionBeginsAnew) {
  ServingMonitor monitor({});
  Traffic traffic;
  for (int i = 0; i < 3; ++i) monitor.Observe(traffic.Next(), At(i));
  Traffic other;
  other.sample().version = "v2";
  other.sample().gates.pop_back();
  monitor.Observe(other.Next(), At(3));
  monitor.Observe(other.Next(), At(4));
  EXPECT_THAT(monitor.MetricsText("m"), testing::Not(HasSubstr("tier=\"1\"")));
}

TEST(WebhookTest, PostsAlarmsAndOutlivesAReceiverThatFails) {
  httplib::Server receiver;
  absl::Mutex mutex;
  std::vector<std::string> got;
  int calls = 0;
  receiver.Post("/hook", [&](const httplib::Request& request,
                             httplib::Response& response) {
    const absl::MutexLock lock(&mutex);
    if (++calls == 1) {
      response.status = 500;  // It is asked again.
      return;
    }
    got.push_back(request.body);
  });
  const int port = receiver.bind_to_any_port("127.0.0.1");
  std::thread thread([&] { receiver.listen_after_bind(); });
  {
    const auto hook =
        Webhook::Create("http://127.0.0.1:" + std::to_string(port) + "/hook");
    ASSERT_THAT(hook, IsOk());
    (*hook)->Send({{"alarm", "a"}});
    (*hook)->Send({{"alarm", "b"}});
    while ((*hook)->num_sent() < 2) absl::SleepFor(absl::Milliseconds(5));
    EXPECT_EQ((*hook)->num_failed(), 0);
  }
  receiver.stop();
  thread.join();
  EXPECT_THAT(got,
              testing::ElementsAre(R"({"alarm":"a"})", R"({"alarm":"b"})"));
}

TEST(WebhookTest, WantsAUrl) {
  for (const char* url :
       {"", "host/path", "ftp://x/", "http://", "http:///p"}) {
    EXPECT_FALSE(Webhook::Create(url).ok()) << url;
  }
}

}  // namespace
}  // namespace strata
