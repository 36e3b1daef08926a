#include "serving/api/server.h"

#include <netinet/in.h>
#include <sys/socket.h>

#include <atomic>
#include <cerrno>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <exception>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "core/base/random.h"
#include "core/base/status_macros.h"
#include "httplib.h"
#include "nlohmann/json.hpp"
#include "serving/api/answer.h"
#include "serving/api/api_request.h"
#include "serving/api/api_response.h"
#include "serving/api/client_socket.h"
#include "serving/api/features.h"
#include "serving/api/fields.h"
#include "serving/api/rate_limiter.h"
#include "serving/api/served_model.h"
#include "serving/api/served_versions.h"
#include "serving/api/server_metrics.h"
#include "serving/monitor/serving_monitor.h"
#include "serving/monitor/webhook.h"

namespace strata {
namespace {

using Json = nlohmann::ordered_json;

constexpr char kJson[] = "application/json";
constexpr char kEventStream[] = "text/event-stream";
constexpr int kBacklog = 1024;
// How often a stream that has nothing to say looks after its client.
constexpr absl::Duration kLook = absl::Milliseconds(50);
constexpr int kReadSeconds = 30, kWriteSeconds = 30, kKeepAliveSeconds = 5;

// Where a request may be, for the log; one thread serves it from its first
// byte to its last.
struct RequestNote {
  absl::Time start;
  std::string id;
  Usage usage;
  int key = -1;  // Which of the API keys it showed.
};
RequestNote& Note() {
  thread_local RequestNote note;
  return note;
}

// The library listens with a backlog of 5, so that a burst of clients would
// wait a second for each retry, and lets several processes share a port.
template <typename Base>
class Listener : public Base {
 public:
  using Base::Base;
  void Relisten() { ::listen(this->svr_sock_, kBacklog); }
};

void SetSocketOptions(socket_t socket) {
  const int on = 1;
  setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
}

void SetError(httplib::Response& response, int status,
              absl::string_view message) {
  response.status = status;
  response.set_content(ErrorObject(status, message).dump(), kJson);
}

void SetError(httplib::Response& response, const absl::Status& status) {
  SetError(response, HttpStatus(status), status.message());
}

std::string MessageFor(int status, const httplib::Request& request) {
  switch (status) {
    case 404:
      return absl::StrCat("there is no ", request.method, " ", request.path);
    case 413:
      return "the body is too large";
    case 500:
      return "an error inside the server";
    default:
      return "the request is not understood";
  }
}

}  // namespace

class Server::Impl {
 public:
  Impl(const ServerOptions& options, std::shared_ptr<ServedModel> model)
      : options_(options),
        versions_(std::move(model)),
        metrics_(options.model),
        created_(absl::ToUnixSeconds(absl::Now())) {
    if (options.requests_per_minute > 0) {
      limiter_ = std::make_unique<RateLimiter>(options.requests_per_minute);
    }
  }

  absl::Status Bind() {
    if (!options_.webhook.empty()) {
      ASSIGN_OR_RETURN(webhook_, Webhook::Create(options_.webhook));
    }
    MonitorOptions monitor;
    monitor.period = options_.monitor_period;
    monitor.ranks = options_.ranks;
    monitor.on_alarm = [this](const Json& alarm) {
      if (options_.log) options_.log(alarm.dump());
      if (webhook_ != nullptr) webhook_->Send(alarm);
    };
    monitor_ = std::make_unique<ServingMonitor>(std::move(monitor));
    if (options_.tls_certificate.empty() && options_.tls_key.empty()) {
      return BindTo<httplib::Server>();
    }
    return BindTo<httplib::SSLServer>(options_.tls_certificate.c_str(),
                                      options_.tls_key.c_str());
  }

  int port() const { return port_; }
  ServedVersions& versions() { return versions_; }

  void Run() {
    began_ = true;
    monitor_->Start([this] {
      const auto model = versions_.Current();
      return MonitorSample{model->version, versions_.Stats(),
                           model->engine.gate_loads()};
    });
    if (!stopping_) http_->listen_after_bind();
    ended_ = true;
  }

  void Stop(absl::Duration grace) {
    draining_ = true;
    versions_.Drain(absl::Now() + grace);
    stopping_ = true;
    // The library ignores a stop that comes before it runs.
    while (began_ && !ended_ && !http_->is_running()) {
      absl::SleepFor(absl::Milliseconds(1));
    }
    if (began_ && !ended_) http_->stop();
  }

 private:
  template <typename Base, typename... Args>
  absl::Status BindTo(Args... args) {
    auto http = std::make_unique<Listener<Base>>(args...);
    if (!http->is_valid()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "cannot serve TLS with certificate ", options_.tls_certificate,
          " and key ", options_.tls_key));
    }
    http->set_socket_options(SetSocketOptions);
    errno = 0;
    port_ = options_.port == 0 ? http->bind_to_any_port(options_.host)
            : http->bind_to_port(options_.host, options_.port) ? options_.port
                                                               : -1;
    if (port_ < 0) {
      return absl::UnavailableError(absl::StrCat(
          "cannot listen on ", options_.host, ":", options_.port, ": ",
          errno == 0 ? "no such address" : std::strerror(errno)));
    }
    http->Relisten();
    http_ = std::move(http);
    SetUp();
    return absl::OkStatus();
  }

  void SetUp() {
    const int threads = options_.max_connections;
    http_->new_task_queue = [threads] {
      return new httplib::ThreadPool(threads);
    };
    http_->set_tcp_nodelay(true);
    http_->set_payload_max_length(options_.max_body_bytes);
    http_->set_read_timeout(kReadSeconds);
    http_->set_write_timeout(kWriteSeconds);
    http_->set_keep_alive_timeout(kKeepAliveSeconds);
    http_->set_keep_alive_max_count(1000);
    http_->set_pre_routing_handler(
        [](const httplib::Request&, httplib::Response& response) {
          static const uint64_t start = absl::ToUnixNanos(absl::Now());
          static std::atomic<uint64_t> count{0};
          Note() = {absl::Now(),
                    absl::StrFormat("%016x", HashCounter(start, ++count)),
                    {},
                    -1};
          response.set_header("X-Request-Id", Note().id);
          return httplib::Server::HandlerResponse::Unhandled;
        });
    http_->set_error_handler(
        [](const httplib::Request& request, httplib::Response& response) {
          if (response.body.empty()) {
            SetError(response, response.status,
                     MessageFor(response.status, request));
          }
        });
    http_->set_exception_handler([](const httplib::Request& request,
                                    httplib::Response& response,
                                    std::exception_ptr error) {
      SetError(response, 500, MessageFor(500, request));
    });
    http_->set_logger(
        [this](const httplib::Request& request,
               const httplib::Response& response) { Log(request, response); });
    AddRoutes();
  }

  void AddRoutes() {
    const auto post = [this](const std::string& path, auto handler) {
      http_->Post(path, [this, handler](const httplib::Request& request,
                                        httplib::Response& response) {
        if (Allowed(request, response) && InRate(request, response)) {
          handler(request, response);
        }
      });
    };
    const auto get = [this](const std::string& path, auto handler) {
      http_->Get(path, [this, handler](const httplib::Request& request,
                                       httplib::Response& response) {
        if (Allowed(request, response)) handler(request, response);
      });
    };
    post("/v1/completions", [this](const auto& request, auto& response) {
      Complete(/*chat=*/false, request, response);
    });
    post("/v1/chat/completions", [this](const auto& request, auto& response) {
      Complete(/*chat=*/true, request, response);
    });
    post("/v1/embeddings", [this](const auto& request, auto& response) {
      AnswerFeatures(request, response, [&](ServedModel& model, auto left) {
        return Embed(request.body, model.codec, model.engine, LimitsOf(model),
                     left, Note().usage);
      });
    });
    post("/tokenize", [this](const auto& request, auto& response) {
      Tokenize(request, response);
    });
    get("/v1/models", [this](const auto& request, auto& response) {
      response.set_content(
          Json{{"object", "list"}, {"data", Json::array({ModelObject()})}}
              .dump(),
          kJson);
    });
    get(R"(/v1/models/(.+))", [this](const auto& request, auto& response) {
      if (!IsOurs(request, response)) return;
      response.set_content(ModelObject().dump(), kJson);
    });
    AddInferRoutes(post, get);
    AddAdminRoutes();
    http_->Get("/health", [](const auto& request, auto& response) {
      response.set_content("{}", kJson);
    });
    http_->Get("/ready", [this](const auto& request, auto& response) {
      SayReady(response);
    });
    http_->Get("/metrics", [this](const auto& request, auto& response) {
      response.set_content(metrics_.Text(versions_.Stats()) +
                               monitor_->MetricsText(options_.model),
                           "text/plain; version=0.0.4; charset=utf-8");
    });
    http_->Get("/alarms", [this](const auto& request, auto& response) {
      response.set_content(monitor_->Alarms().dump(), kJson);
    });
  }

  // The Open Inference Protocol, version 2.
  template <typename Post, typename Get>
  void AddInferRoutes(const Post& post, const Get& get) {
    http_->Get("/v2/health/live", [](const auto& request, auto& response) {
      response.set_content("{}", kJson);
    });
    http_->Get("/v2/health/ready", [this](const auto& request, auto& response) {
      SayReady(response);
    });
    http_->Get("/v2", [](const auto& request, auto& response) {
      response.set_content(
          Json{{"name", "strata"}, {"extensions", Json::array()}}.dump(),
          kJson);
    });
    get("/v2/models/([^/]+)", [this](const auto& request, auto& response) {
      if (!IsOurs(request, response)) return;
      const auto model = versions_.Current();
      response.set_content(
          InferMetadata(model->engine, LimitsOf(*model), model->version).dump(),
          kJson);
    });
    get("/v2/models/([^/]+)/ready",
        [this](const auto& request, auto& response) {
          if (IsOurs(request, response)) SayReady(response);
        });
    post("/v2/models/([^/]+)/infer", [this](const auto& request,
                                            auto& response) {
      if (!IsOurs(request, response)) return;
      AnswerFeatures(request, response, [&](ServedModel& model, auto left) {
        return Infer(request.body, model.engine, LimitsOf(model), model.version,
                     left, Note().usage);
      });
    });
  }

  // Loading takes as long as it takes; requests go on meanwhile.
  void AddAdminRoutes() {
    if (!options_.admin_keys.has_value()) return;
    const auto admin = [this](const char* path, auto handler) {
      http_->Post(path, [this, handler](const httplib::Request& request,
                                        httplib::Response& response) {
        if (HasKey(request, response, *options_.admin_keys) < 0) return;
        const absl::StatusOr<std::string> version = handler(request);
        if (!version.ok()) return SetError(response, version.status());
        response.set_content(
            Json{{"id", options_.model}, {"version", *version}}.dump(), kJson);
      });
    };
    admin("/admin/load",
          [this](const auto& request) -> absl::StatusOr<std::string> {
            ASSIGN_OR_RETURN(const Json body, ParseBody(request.body));
            Fields fields(body);
            const std::string path = fields.String("path", "");
            RETURN_IF_ERROR(fields.Finish());
            if (!options_.load) {
              return absl::FailedPreconditionError("nothing can be loaded");
            }
            ASSIGN_OR_RETURN(std::shared_ptr<ServedModel> model,
                             options_.load(path));
            const std::string version = model->version;
            versions_.Swap(std::move(model));
            return version;
          });
    admin("/admin/rollback",
          [this](const auto& request) { return versions_.RollBack(); });
  }

  void SayReady(httplib::Response& response) {
    if (draining_) {
      return SetError(response, 503, "the server is shutting down");
    }
    response.set_content("{}", kJson);
  }

  // Which of `keys` the request shows; -1 if none, which is answered.
  static int HasKey(const httplib::Request& request,
                    httplib::Response& response, const ApiKeys& keys) {
    constexpr absl::string_view kBearer = "Bearer ";
    const std::string header = request.get_header_value("Authorization");
    const int key =
        absl::StartsWith(header, kBearer)
            ? keys.Find(absl::string_view(header).substr(kBearer.size()))
            : -1;
    if (key < 0) {
      response.set_header("WWW-Authenticate", "Bearer");
      SetError(
          response, 401,
          "no API key, or a wrong one; want \"Authorization: Bearer KEY\"");
    }
    return key;
  }

  bool Allowed(const httplib::Request& request, httplib::Response& response) {
    if (!options_.keys.has_value()) return true;
    Note().key = HasKey(request, response, *options_.keys);
    return Note().key >= 0;
  }

  bool InRate(const httplib::Request& request, httplib::Response& response) {
    if (limiter_ == nullptr) return true;
    const std::string client =
        Note().key >= 0 ? absl::StrCat(Note().key) : request.remote_addr;
    const absl::Duration wait = limiter_->Take(client, absl::Now());
    if (wait == absl::ZeroDuration()) return true;
    const auto seconds =
        static_cast<int64_t>(std::ceil(absl::ToDoubleSeconds(wait)));
    response.set_header("Retry-After", absl::StrCat(seconds));
    SetError(response, 429,
             absl::StrCat("more than ", options_.requests_per_minute,
                          " requests a minute; try again in ", seconds, " s"));
    return false;
  }

  bool IsOurs(const httplib::Request& request, httplib::Response& response) {
    if (request.matches[1] == options_.model) return true;
    SetError(response, 404,
             absl::StrCat("model ", Shown(std::string(request.matches[1])),
                          " is not here"));
    return false;
  }

  ApiLimits LimitsOf(ServedModel& model) const {
    ApiLimits limits;
    limits.model = options_.model;
    limits.vocab_size = model.engine.config().vocab_size();
    limits.max_tokens = model.engine.max_tokens();
    limits.max_seconds = options_.max_seconds;
    limits.schemas = &model.schemas;
    return limits;
  }

  Json ModelObject() const {
    const auto model = versions_.Current();
    return {{"id", options_.model},
            {"object", "model"},
            {"created", created_},
            {"owned_by", "strata"},
            {"max_model_len", model->engine.max_tokens()},
            {"version", model->version}};
  }

  // Of one answer. The model goes last.
  struct Running {
    std::shared_ptr<ServedModel> model;
    std::unique_ptr<Answer> answer;
  };

  void Complete(bool chat, const httplib::Request& http,
                httplib::Response& response) {
    auto running = std::make_shared<Running>();
    running->model = versions_.Current();
    ServedModel& model = *running->model;
    absl::StatusOr<ApiRequest> request =
        ReadApiRequest(chat, http.body, model.codec, LimitsOf(model));
    if (!request.ok()) return SetError(response, request.status());
    const bool stream = request->stream;
    ResponseHead head;
    head.chat = chat;
    head.id = absl::StrCat(chat ? "chatcmpl-" : "cmpl-", Note().id);
    head.created = absl::ToUnixSeconds(absl::Now());
    head.model = options_.model;
    head.version = model.version;
    auto started = Answer::Start(*std::move(request), std::move(head),
                                 model.codec, model.engine, metrics_);
    if (!started.ok()) return SetError(response, started.status());
    running->answer = *std::move(started);
    response.set_header("X-Model-Version", model.version);
    const int socket = FindSocketOfPeer(http.remote_addr, http.remote_port);
    if (!stream) {
      const absl::StatusOr<Json> whole =
          running->answer->Whole([socket] { return PeerHasLeft(socket); });
      Note().usage = running->answer->usage();
      if (!whole.ok()) return SetError(response, whole.status());
      return response.set_content(whole->dump(), kJson);
    }
    response.set_header("Cache-Control", "no-cache");
    response.set_header("X-Accel-Buffering", "no");  // For nginx.
    response.set_chunked_content_provider(
        kEventStream,
        [running, socket](size_t offset, httplib::DataSink& sink) {
          const Answer::Piece piece = running->answer->Next(kLook);
          Note().usage = running->answer->usage();
          if (piece.text.empty() && !piece.done) return !PeerHasLeft(socket);
          if (!sink.write(piece.text.data(), piece.text.size())) return false;
          if (piece.done) sink.done();
          return true;
        });
  }

  template <typename Run>
  void AnswerFeatures(const httplib::Request& http, httplib::Response& response,
                      Run run) {
    const auto model = versions_.Current();
    const int socket = FindSocketOfPeer(http.remote_addr, http.remote_port);
    const absl::StatusOr<Json> result =
        run(*model, [socket] { return PeerHasLeft(socket); });
    if (!result.ok()) return SetError(response, result.status());
    response.set_header("X-Model-Version", model->version);
    response.set_content(result->dump(), kJson);
  }

  void Tokenize(const httplib::Request& http, httplib::Response& response) {
    const absl::StatusOr<Json> body = ParseBody(http.body);
    if (!body.ok()) return SetError(response, body.status());
    Fields fields(*body);
    fields.Ignore("model");
    const std::string text = fields.String("prompt", "");
    const Json& messages = fields.Any("messages");
    const absl::Status status = fields.Finish();
    if (!status.ok()) return SetError(response, status);
    std::vector<int32_t> tokens;
    const auto model = versions_.Current();
    if (messages.is_null()) {
      tokens = model->codec.Encode(text);
    } else {
      absl::StatusOr<std::vector<int32_t>> chat =
          model->codec.EncodeChat(messages);
      if (!chat.ok()) return SetError(response, chat.status());
      tokens = *std::move(chat);
    }
    response.set_content(Json{{"count", tokens.size()},
                              {"max_model_len", model->engine.max_tokens()},
                              {"tokens", tokens}}
                             .dump(),
                         kJson);
  }

  void Log(const httplib::Request& request, const httplib::Response& response) {
    // Paths of strangers would be labels without end.
    metrics_.CountResponse(response.status == 404 ? "other" : request.path,
                           response.status);
    if (!options_.log) return;
    const RequestNote& note = Note();
    options_.log(Json{
        {"time",
         absl::FormatTime(absl::RFC3339_sec, note.start, absl::UTCTimeZone())},
        {"id", note.id},
        {"client", request.remote_addr},
        {"key", note.key < 0 ? Json(nullptr) : Json(note.key)},
        {"method", request.method},
        {"path", request.path},
        {"status", response.status},
        {"seconds", absl::ToDoubleSeconds(absl::Now() - note.start)},
        {"prompt_tokens", note.usage.prompt_tokens},
        {"completion_tokens", note.usage.completion_tokens}}
                     .dump(-1, ' ', true, Json::error_handler_t::replace));
  }

  const ServerOptions options_;
  ServedVersions versions_;
  ServerMetrics metrics_;
  const int64_t created_;
  std::unique_ptr<RateLimiter> limiter_;
  std::unique_ptr<Webhook> webhook_;
  std::unique_ptr<ServingMonitor> monitor_;  // Tells the webhook.
  std::unique_ptr<httplib::Server> http_;
  int port_ = -1;
  std::atomic<bool> draining_{false};
  std::atomic<bool> stopping_{false};
  std::atomic<bool> began_{false};
  std::atomic<bool> ended_{false};
};

Server::Server(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Server::~Server() = default;

absl::StatusOr<std::unique_ptr<Server>> Server::Create(
    const ServerOptions& options, std::shared_ptr<ServedModel> model) {
  auto impl = std::make_unique<Impl>(options, std::move(model));
  RETURN_IF_ERROR(impl->Bind());
  return std::unique_ptr<Server>(new Server(std::move(impl)));
}

int Server::port() const { return impl_->port(); }
ServedVersions& Server::versions() { return impl_->versions(); }
void Server::Run() { impl_->Run(); }
void Server::Stop(absl::Duration grace) { impl_->Stop(grace); }

}  // namespace strata
