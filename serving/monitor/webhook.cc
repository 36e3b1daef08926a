#include "serving/monitor/webhook.h"

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "httplib.h"
#include "nlohmann/json.hpp"

namespace strata {
namespace {

constexpr size_t kMaxWaiting = 100;
constexpr int kTries = 3;
constexpr int kSeconds = 5;  // To connect, to write, to read.
constexpr absl::Duration kPause = absl::Milliseconds(500);

}  // namespace

absl::StatusOr<std::unique_ptr<Webhook>> Webhook::Create(
    const std::string& url) {
  const size_t host = url.find("://") + 3;
  const bool known =
      absl::StartsWith(url, "http://") || absl::StartsWith(url, "https://");
  if (!known || host >= url.size() || url[host] == '/') {
    return absl::InvalidArgumentError(
        absl::StrCat("webhook ", url, " is none; want http://host:port/path"));
  }
  const size_t slash = url.find('/', host);
  std::string path = slash == std::string::npos ? "/" : url.substr(slash);
  return std::unique_ptr<Webhook>(
      new Webhook(url.substr(0, slash), std::move(path)));
}

Webhook::Webhook(std::string origin, std::string path)
    : origin_(std::move(origin)),
      path_(std::move(path)),
      thread_([this] { Loop(); }) {}

Webhook::~Webhook() {
  {
    absl::MutexLock lock(&mutex_);
    ending_ = true;
  }
  thread_.join();
}

void Webhook::Send(const nlohmann::ordered_json& object) {
  absl::MutexLock lock(&mutex_);
  waiting_.push_back(object.dump());
  if (waiting_.size() > kMaxWaiting) {
    waiting_.pop_front();
    ++num_failed_;
  }
}

void Webhook::Loop() {
  const auto work = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return ending_ || !waiting_.empty();
  };
  const auto ending = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return ending_;
  };
  while (true) {
    std::string body;
    {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(&work));
      if (ending_) return;
      body = std::move(waiting_.front());
      waiting_.pop_front();
    }
    bool sent = false;
    for (int i = 0; i < kTries && !sent; ++i) {
      httplib::Client client(origin_);
      client.set_connection_timeout(kSeconds);
      client.set_read_timeout(kSeconds);
      client.set_write_timeout(kSeconds);
      const httplib::Result result =
          client.Post(path_, body, "application/json");
      sent = result && result->status >= 200 && result->status < 300;
      if (sent) break;
      absl::MutexLock lock(&mutex_);
      if (mutex_.AwaitWithTimeout(absl::Condition(&ending), kPause)) break;
    }
    absl::MutexLock lock(&mutex_);
    ++(sent ? num_sent_ : num_failed_);
  }
}

int64_t Webhook::num_sent() const {
  absl::MutexLock lock(&mutex_);
  return num_sent_;
}

int64_t Webhook::num_failed() const {
  absl::MutexLock lock(&mutex_);
  return num_failed_;
}

}  // namespace strata
