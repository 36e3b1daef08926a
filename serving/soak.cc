// bazel run -c opt //serving:soak -- [SECONDS] [CLIENTS] [LOAD]
//
// A server under users of all kinds, for SECONDS (60; the goal is an hour):
// CLIENTS (24) threads that at random ask and read the answer, ask for a stream
// and leave in its midst, read slowly, send what is no request, ask for what is
// wrong, send half a request and wait, or ask with too little time. The model
// is `demo` with random weights, the cache small, so that sequences are
// preempted.
//
// Prints resident memory and the requests in flight ten times. At the end
// nothing may run or wait, every choice that was submitted must have ended in
// exactly one way, by the engine's counts and by those of /metrics, answers
// must have been of the statuses that were due, and memory must not have grown
// by more than 2 % over the second half. Ends with status 1 if something of
// that is not so.

#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "core/base/check.h"
#include "core/base/files.h"
#include "core/base/random.h"
#include "core/base/thread_pool.h"
#include "core/cpu/batch_invariant.h"
#include "core/cpu/cpu_backend.h"
#include "core/model/config.h"
#include "core/model/config.pb.h"
#include "core/model/init.h"
#include "core/runtime/state_store.h"
#include "httplib.h"
#include "nlohmann/json.hpp"
#include "serving/api/served_model.h"
#include "serving/api/server.h"
#include "serving/api/text_codec.h"
#include "serving/engine/engine.h"

namespace strata {
namespace {

using Json = nlohmann::json;

constexpr int kLooks = 10;
constexpr double kMaxGrowth = 0.02;

enum Action {
  kAnswer,
  kStream,
  kLeave,
  kSlow,
  kGarbage,
  kWrong,
  kHalf,
  kShort,
  kNumActions,
};
constexpr std::array<const char*, kNumActions> kNames = {
    "answers",     "streams",     "left midway",   "read slowly",
    "no requests", "wrong field", "half requests", "timed out or done"};

double ResidentMb() {
  const auto text = ReadFile("/proc/self/statm");
  CHECK(text.ok()) << text.status();
  const double pages = std::atof(text->c_str() + text->find(' '));
  return pages * static_cast<double>(sysconf(_SC_PAGESIZE)) / 1e6;
}

// When clients may ask next: at once, or by a Poisson process of some rate.
class Pace {
 public:
  void Set(double per_second) {
    absl::MutexLock lock(&mutex_);
    per_second_ = per_second;
    next_ = absl::Now();
  }

  // Waits for the caller's turn, or until `until`.
  void Wait(Random& random, absl::Time until) {
    absl::Time turn;
    {
      absl::MutexLock lock(&mutex_);
      if (per_second_ == 0) return;
      next_ += absl::Seconds(-std::log(1 - random.Uniform()) / per_second_);
      turn = next_;
    }
    absl::SleepFor(std::min(turn, until) - absl::Now());
  }

 private:
  absl::Mutex mutex_;
  double per_second_ ABSL_GUARDED_BY(mutex_) = 0;  // 0: at once.
  absl::Time next_ ABSL_GUARDED_BY(mutex_);
};

class Users {
 public:
  explicit Users(int port) : port_(port) {}

  void Run(int client, absl::Time until) {
    Random random(/*seed=*/1, client);
    while (absl::Now() < until) {
      pace_.Wait(random, until);
      if (absl::Now() >= until) return;
      // Most ask as they should.
      const auto draw = static_cast<int>(random.UniformInt(20));
      const int action = draw < kNumActions ? draw : draw % 2;
      Act(static_cast<Action>(action), random);
      ++counts_[action];
    }
  }

  Pace& pace() { return pace_; }
  int64_t num_acts() const {
    int64_t sum = 0;
    for (const auto& count : counts_) sum += count;
    return sum;
  }
  int64_t num_wrong() const { return num_wrong_; }
  void Print() const {
    for (int i = 0; i < kNumActions; ++i) {
      std::printf("%s%s %d", i == 0 ? "" : ", ", kNames[i],
                  static_cast<int>(counts_[i]));
    }
    std::printf("\n");
  }

 private:
  void Expect(const httplib::Result& result, std::vector<int> statuses,
              const char* what) {
    const int status = result ? result->status : 0;
    if (std::find(statuses.begin(), statuses.end(), status) != statuses.end()) {
      return;
    }
    ++num_wrong_;
    std::fprintf(stderr, "%s: status %d %s\n", what, status,
                 result ? result->body.substr(0, 200).c_str() : "");
  }

  static Json Request(Random& random, bool stream) {
    std::string prompt;
    const auto length = 1 + random.UniformInt(200);
    for (uint64_t i = 0; i < length; ++i) {
      prompt += static_cast<char>('a' + random.UniformInt(26));
    }
    return {{"prompt", prompt},
            {"max_tokens", 1 + random.UniformInt(120)},
            {"n", 1 + random.UniformInt(2)},
            {"stream", stream},
            {"ignore_eos", random.UniformInt(2) == 0}};
  }

  void Act(Action action, Random& random) {
    httplib::Client client("127.0.0.1", port_);
    client.set_read_timeout(120);
    const auto post = [&](const Json& body) {
      return client.Post("/v1/completions", body.dump(), "application/json");
    };
    switch (action) {
      case kAnswer:
      case kStream:
        return Expect(post(Request(random, action == kStream)), {200, 429},
                      kNames[action]);
      case kLeave:
      case kSlow: {
        int64_t budget = static_cast<int64_t>(random.UniformInt(2000));
        httplib::Request request;
        request.method = "POST";
        request.path = "/v1/completions";
        request.set_header("Content-Type", "application/json");
        request.body = Request(random, /*stream=*/true).dump();
        request.content_receiver = [&](const char*, size_t size, uint64_t,
                                       uint64_t) {
          if (action == kSlow) {
            absl::SleepFor(absl::Milliseconds(10));
            return true;
          }
          budget -= static_cast<int64_t>(size);
          return budget > 0;
        };
        httplib::Response response;
        httplib::Error error;
        client.send(request, response, error);
        return;
      }
      case kGarbage: {
        std::string body(random.UniformInt(300), ' ');
        for (char& c : body) c = static_cast<char>(random.UniformInt(256));
        return Expect(client.Post("/v1/completions", body, "application/json"),
                      {400}, kNames[action]);
      }
      case kWrong: {
        Json body = Request(random, false);
        body["temperature"] = "hot";
        return Expect(post(body), {400}, kNames[action]);
      }
      case kHalf:
        return SendHalf(random);
      case kShort: {
        Json body = Request(random, false);
        body["timeout"] = 0.001 + 0.05 * random.Uniform();
        return Expect(post(body), {200, 408, 429}, kNames[action]);
      }
      case kNumActions:
        return;
    }
  }

  // A connection that promises a body, sends some of it, and is silent.
  void SendHalf(Random& random) {
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port_));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) ==
        0) {
      const std::string text =
          "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: "
          "application/json\r\nContent-Length: 1000\r\n\r\n{\"prompt\"";
      const auto cut = 1 + random.UniformInt(text.size());
      if (send(fd, text.data(), cut, MSG_NOSIGNAL) > 0) {
        absl::SleepFor(absl::Milliseconds(100 + random.UniformInt(1000)));
      }
    }
    close(fd);
  }

  const int port_;
  Pace pace_;
  std::array<std::atomic<int64_t>, kNumActions> counts_ = {};
  std::atomic<int64_t> num_wrong_{0};
};

// Answers that ended, by what the server tells Prometheus; -1 if it does not.
int64_t EndedByMetrics(int port) {
  httplib::Client client("127.0.0.1", port);
  const httplib::Result result = client.Get("/metrics");
  if (!result || result->status != 200) return -1;
  double sum = 0;
  for (const absl::string_view line : absl::StrSplit(result->body, '\n')) {
    double value = 0;
    if (absl::StartsWith(line, "strata:request_success_total{") &&
        absl::SimpleAtod(line.substr(line.rfind(' ') + 1), &value)) {
      sum += value;
    }
  }
  return static_cast<int64_t>(sum);
}

int Main(int argc, char** argv) {
  const double seconds = argc > 1 ? std::atof(argv[1]) : 60;
  const int num_clients = argc > 2 ? std::atoi(argv[2]) : 24;
  const double load = argc > 3 ? std::atof(argv[3]) : 0.8;
  if (!(seconds > 0) || num_clients < 1 || !(load > 0)) {
    std::fprintf(stderr, "want more than 0 seconds, clients and load\n");
    return 2;
  }
  absl::StatusOr<ModelConfig> config = ModelPreset("demo");
  CHECK(config.ok()) << config.status();
  CpuBackend backend(NumUsableCores(), BatchInvariantCpuKernels());
  StateStore state(backend);
  EngineOptions engine_options;
  engine_options.max_sequences = 16;
  engine_options.max_step_tokens = 128;
  engine_options.num_blocks = 128;  // Of 16 tokens: a third of what they want.
  engine_options.max_waiting = 64;
  engine_options.pool = &backend.pool();
  const auto engine = Engine::Create(*config, backend, state, engine_options);
  CHECK(engine.ok()) << engine.status();
  InitializeParameters(*config, /*seed=*/0, state);
  const auto codec = LoadTextCodec("/nonexistent", config->vocab_size());
  CHECK(codec.ok()) << codec.status();
  const auto model = std::make_shared<ServedModel>(**codec, **engine, "soak");
  ServerOptions options;
  options.port = 0;
  options.max_connections = 2 * num_clients;
  const auto server = Server::Create(options, model);
  CHECK(server.ok()) << server.status();
  std::thread serving([&] { (*server)->Run(); });

  Users users((*server)->port());
  const absl::Time start = absl::Now();
  const absl::Time end = start + absl::Seconds(seconds);
  std::vector<std::thread> clients;
  for (int i = 0; i < num_clients; ++i) {
    clients.emplace_back([&users, i, end] { users.Run(i, end); });
  }
  const absl::Duration free = absl::Seconds(std::min(60.0, seconds / kLooks));
  absl::SleepFor(free);
  const double rate =
      static_cast<double>(users.num_acts()) / absl::ToDoubleSeconds(free);
  users.pace().Set(load * rate);
  std::printf(
      "%.1f requests/s as fast as they are answered; from now on %.1f\n", rate,
      load * rate);
  std::vector<double> memory;
  for (int look = 1; look <= kLooks; ++look) {
    absl::SleepFor(start + absl::Seconds(seconds * look / kLooks) -
                   absl::Now());
    const EngineStats stats = (*engine)->stats();
    memory.push_back(ResidentMb());
    std::printf("%6.0f s: %.1f MB resident, %d running, %d waiting, %d done\n",
                absl::ToDoubleSeconds(absl::Now() - start), memory.back(),
                static_cast<int>(stats.num_running),
                static_cast<int>(stats.num_waiting),
                static_cast<int>(stats.num_submitted - stats.num_running -
                                 stats.num_waiting));
    std::fflush(stdout);
  }
  for (std::thread& client : clients) client.join();
  const absl::Time give_up = absl::Now() + absl::Seconds(60);
  EngineStats stats = (*engine)->stats();
  while (stats.num_running + stats.num_waiting > 0 && absl::Now() < give_up) {
    absl::SleepFor(absl::Milliseconds(20));
    stats = (*engine)->stats();
  }
  const int64_t ended_by_metrics = EndedByMetrics((*server)->port());
  (*server)->Stop(absl::Seconds(10));
  serving.join();
  stats = (*engine)->stats();

  users.Print();
  int64_t ended = 0;
  for (const int64_t count : stats.num_finished) ended += count;
  std::printf(
      "submitted %d: stop %d, length %d, cancelled %d, timed out %d, failed "
      "%d; %d preemptions\n",
      static_cast<int>(stats.num_submitted),
      static_cast<int>(stats.num_finished[0]),
      static_cast<int>(stats.num_finished[1]),
      static_cast<int>(stats.num_finished[2]),
      static_cast<int>(stats.num_finished[3]),
      static_cast<int>(stats.num_finished[4]),
      static_cast<int>(stats.num_preemptions));
  std::printf("ended: %d by the engine, %d by /metrics\n",
              static_cast<int>(ended), static_cast<int>(ended_by_metrics));
  const double growth = memory.back() / memory[kLooks / 2 - 1] - 1;
  std::printf("memory over the second half: %+.2f %%\n", 100 * growth);
  const bool good = ended == stats.num_submitted && ended == ended_by_metrics &&
                    stats.num_running == 0 && stats.num_waiting == 0 &&
                    stats.num_finished[4] == 0 && users.num_wrong() == 0 &&
                    growth <= kMaxGrowth;
  std::printf(good ? "all is well\n" : "NOT as it should be\n");
  return good ? 0 : 1;
}

}  // namespace
}  // namespace strata

int main(int argc, char** argv) { return strata::Main(argc, argv); }
