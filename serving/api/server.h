// The HTTP server: OpenAI's API over an Engine.
//
//   POST /v1/completions, /v1/chat/completions   JSON, or server-sent events
//   GET  /v1/models, /v1/models/NAME
//   POST /tokenize                               {"prompt"} -> {"tokens", ...}
//   GET  /health   200 while the process lives
//   GET  /ready    200 while it takes requests, 503 when it drains
//   GET  /metrics  Prometheus' text form
//
// A thread of its own answers each connection; text, JSON and sockets are its
// work, the model is the engine's. When a client leaves, its request is
// cancelled. If there are keys, /v1/... and /tokenize want one, as
// "Authorization: Bearer KEY".

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
#include "serving/api/api_keys.h"
#include "serving/api/text_codec.h"
#include "serving/engine/engine.h"

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
  // Gets a line of JSON for each request, without its content.
  std::function<void(const std::string& line)> log;
};

class Server {
 public:
  // Binds. `engine` and `codec` must outlive the server.
  //
  // Returns UNAVAILABLE if the address cannot be bound, INVALID_ARGUMENT if the
  // certificate or its key are no good.
  static absl::StatusOr<std::unique_ptr<Server>> Create(
      const ServerOptions& options, const TextCodec& codec, Engine& engine);
  ~Server();

  int port() const;

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
