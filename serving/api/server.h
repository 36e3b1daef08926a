// The HTTP server: OpenAI's API over an Engine.
//
//   POST /v1/completions, /v1/chat/completions   JSON, or server-sent events
//   POST /v1/embeddings
//   GET  /v1/models, /v1/models/NAME
//   POST /tokenize                               {"prompt"} -> {"tokens", ...}
//   POST /v2/models/NAME/infer                   Open Inference Protocol; also
//   GET  /v2, /v2/models/NAME[/ready], /v2/health/{live,ready}
//   POST /admin/load, /admin/rollback            if there are admin keys
//   GET  /health   200 while the process lives
//   GET  /ready    200 while it takes requests, 503 when it drains
//   GET  /metrics  Prometheus' text form
//   GET  /alarms   what is not as it should be (serving/monitor)
//
// A thread of its own answers each connection; text, JSON and sockets are its
// work, the model is the engine's. When a client leaves, its request is
// cancelled. If there are keys, /v1/..., /v2/models/... and /tokenize want one,
// as "Authorization: Bearer KEY". Answers tell the version of the model that
// made them, as "system_fingerprint" and in the header X-Model-Version.

#ifndef SERVING_API_SERVER_H_
#define SERVING_API_SERVER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "core/monitor/rank_balance.h"
#include "serving/api/api_keys.h"
#include "serving/api/served_model.h"
#include "serving/api/served_versions.h"

namespace strata {

struct ServerOptions {
  std::string host = "127.0.0.1";
  int port = 8000;               // 0: any that is free.
  std::string model = "strata";  // The name that requests give.
  std::optional<ApiKeys> keys;   // None: anybody may ask.
  std::string tls_certificate;   // Files in PEM; both or none.
  std::string tls_key;
  int64_t max_body_bytes = int64_t{4} << 20;
  int max_connections = 256;  // Answered at a time; more wait.
  double max_seconds = 600;   // Of a request.
  // POST requests of a key, or where there are no keys of an address; 0: any
  // number.
  double requests_per_minute = 0;
  // Keys of those who may change the version that is served; none: nobody may.
  std::optional<ApiKeys> admin_keys;
  // Loads the version at a path, for /admin/load; null: there is no such thing.
  std::function<absl::StatusOr<std::shared_ptr<ServedModel>>(
      const std::string& path)>
      load;
  // The watch over itself: how often it looks, the ranks that experts are
  // thought to be shared by, and where alarms are posted (a URL; "": nowhere).
  absl::Duration monitor_period = absl::Seconds(5);
  RankBalanceOptions ranks;
  std::string webhook;
  // Gets a line of JSON for each request, without its content, and for each
  // alarm.
  std::function<void(const std::string& line)> log;
};

class Server {
 public:
  // Binds. What `model` does not own must outlive the server.
  //
  // Returns UNAVAILABLE if the address cannot be bound, INVALID_ARGUMENT if the
  // certificate or its key are no good, or the webhook is no URL.
  static absl::StatusOr<std::unique_ptr<Server>> Create(
      const ServerOptions& options, std::shared_ptr<ServedModel> model);
  ~Server();

  int port() const;

  // Which versions are served.
  ServedVersions& versions();

  // Answers requests until Stop; to be called once.
  void Run();

  // Takes no more requests, waits up to `grace` for those that run, cancels the
  // rest and makes Run return. For any thread.
  void Stop(absl::Duration grace);

 private:
  class Impl;
  explicit Server(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace strata

#endif  // SERVING_API_SERVER_H_
