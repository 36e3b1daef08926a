// strata serve

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <filesystem>
#include <iterator>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "core/base/files.h"
#include "core/base/signals.h"
#include "core/base/status_macros.h"
#include "core/base/thread_pool.h"
#include "core/checkpoint/load_model.h"
#include "core/checkpoint/model_files.h"
#include "core/checkpoint/weight_storage.h"
#include "core/cpu/batch_invariant.h"
#include "core/cpu/cpu_backend.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/model/config.pb.h"
#include "core/model/decoder.h"
#include "core/quant/cache_format.h"
#include "core/quant/format.h"
#include "core/quant/packed_parameters.h"
#include "core/quant/round_parameters.h"
#include "core/runtime/backend.h"
#include "core/runtime/state_store.h"
#include "core/tensor/dtype.h"
#include "serving/api/api_keys.h"
#include "serving/api/fields.h"
#include "serving/api/served_model.h"
#include "serving/api/server.h"
#include "serving/api/text_codec.h"
#include "serving/engine/engine.h"
#include "tools/strata/command.h"
#include "tools/strata/config_flags.h"
#include "tools/strata/device_flags.h"
#include "tools/strata/option_parser.h"
#include "tools/strata/output.h"
#include "training/run/model_folder.h"

namespace strata {
namespace {

constexpr int kMaxPort = 65535;
constexpr double kGiB = 1024.0 * 1024 * 1024;

struct ServeFlags {
  std::string model;
  std::string name;
  std::string config_file;
  std::string keys_file;
  std::string admin_keys_file;
  ServerOptions server;
  EngineOptions engine;
  double cache_gib = 1;
  int64_t max_context = 0;  // 0: the model's.
  double grace_seconds = 30;
  int threads = 1;
  bool quiet = false;
  bool no_fuse = false;
  WeightStorage weights = WeightStorage::kAsStored;
  std::string profile;
  DeviceFlags device;
  OptionParser* app = nullptr;
};

constexpr char kEdge[] = "edge";
constexpr QuantFormat kEdgeWeights = {8, 32, true};

// Values of the profile, which file and command line override: few cores and
// little memory.
void ApplyProfile(ServeFlags& flags) {
  if (flags.profile != kEdge) return;
  const auto set = [&](const std::string& name, auto& value, auto to) {
    if (!flags.app->FindOption("--" + name)->is_given()) value = to;
  };
  set("cache", flags.engine.cache.format, CacheFormat::kInt8);
  set("threads", flags.threads, std::min(2, NumUsableCores()));
  set("max-sequences", flags.engine.max_sequences, int64_t{4});
  set("max-step-tokens", flags.engine.max_step_tokens, int64_t{64});
  set("max-waiting", flags.engine.max_waiting, int64_t{16});
  set("cache-gib", flags.cache_gib, 0.125);
}

// Values of the file for what the command line does not say.
absl::Status ReadConfigFile(ServeFlags& flags) {
  if (flags.config_file.empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::string text, ReadFile(flags.config_file));
  const auto with_path = [&](const absl::Status& status) {
    return absl::InvalidArgumentError(
        absl::StrCat(flags.config_file, ": ", status.message()));
  };
  const auto json = ParseBody(text);
  if (!json.ok()) return with_path(json.status());
  Fields fields(*json);
  const auto given = [&](const std::string& name) {
    fields.Ignore(name);
    return flags.app->FindOption("--" + name)->is_given();
  };
  const auto string = [&](const std::string& name, std::string& value) {
    if (!given(name)) value = fields.String(name, value);
  };
  const auto integer = [&](const std::string& name, auto& value, int64_t min,
                           int64_t max) {
    if (!given(name)) value = fields.Int(name, value, min, max);
  };
  const auto number = [&](const std::string& name, double& value) {
    if (!given(name)) value = fields.Number(name, value);
  };
  constexpr int64_t kMany = int64_t{1} << 40;
  string("host", flags.server.host);
  integer("port", flags.server.port, 0, kMaxPort);
  string("name", flags.name);
  string("api-keys", flags.keys_file);
  string("admin-keys", flags.admin_keys_file);
  number("requests-per-minute", flags.server.requests_per_minute);
  string("webhook", flags.server.webhook);
  integer("virtual-ranks", flags.server.ranks.num_ranks, 1, 4096);
  string("tls-certificate", flags.server.tls_certificate);
  string("tls-key", flags.server.tls_key);
  integer("max-body-bytes", flags.server.max_body_bytes, 1, kMany);
  integer("max-connections", flags.server.max_connections, 1, 100000);
  number("max-seconds", flags.server.max_seconds);
  integer("max-sequences", flags.engine.max_sequences, 1, kMany);
  integer("max-step-tokens", flags.engine.max_step_tokens, 1, kMany);
  integer("max-waiting", flags.engine.max_waiting, 1, kMany);
  integer("block-size", flags.engine.block_size, 1, kMany);
  number("cache-gib", flags.cache_gib);
  if (!given("cache")) {
    const auto format = CacheFormatOf(
        fields.String("cache", ToText(flags.engine.cache.format)));
    if (!format.ok()) return with_path(format.status());
    flags.engine.cache.format = *format;
  }
  integer("attention-bits", flags.engine.cache.attention_bits, 0, 6);
  if (!given("weights")) {
    const std::string name = fields.String("weights", "");
    if (!name.empty()) {
      const auto storage = WeightStorageOf(name);
      if (!storage.ok()) return with_path(storage.status());
      flags.weights = *storage;
    }
  }
  integer("max-context", flags.max_context, 0, kMany);
  number("grace-seconds", flags.grace_seconds);
  integer("threads", flags.threads, 1, 4096);
  string("device", flags.device.device);
  string("precision", flags.device.precision);
  if (!given("no-fuse")) {
    flags.no_fuse = fields.Bool("no-fuse", flags.no_fuse);
  }
  const absl::Status status = fields.Finish();
  return status.ok() ? status : with_path(status);
}

// Of the run rather than of its checkpoint.
std::string NameOf(const ServeFlags& flags) {
  if (!flags.name.empty()) return flags.name;
  const std::filesystem::path path =
      std::filesystem::absolute(flags.model).lexically_normal();
  return (path.has_filename() ? path : path.parent_path()).filename().string();
}

absl::StatusOr<ApiKeys> ReadKeys(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  absl::StatusOr<ApiKeys> keys = ApiKeys::Parse(text);
  if (keys.ok()) return keys;
  return absl::InvalidArgumentError(
      absl::StrCat(path, ": ", keys.status().message()));
}

// A version of the model and all that it stands on, in the order in which they
// are made.
struct LoadedModel {
  std::unique_ptr<TextCodec> codec;
  std::unique_ptr<Backend> backend;
  std::unique_ptr<ThreadPool> sampling;  // Where the backend has no threads.
  std::unique_ptr<StateStore> state;
  std::unique_ptr<Engine> engine;
};

// The backend, and who draws tokens: its own threads, or others.
absl::Status MakeDevice(const ServeFlags& flags, LoadedModel& loaded,
                        EngineOptions& options) {
  const std::string& device = flags.device.device;
  if (device != "cpu" && device != "cuda") {
    return absl::InvalidArgumentError(
        absl::StrCat("device is ", device, "; want cpu or cuda"));
  }
  if (device == "cpu" && flags.device.precision == "fp32") {
    auto cpu =
        std::make_unique<CpuBackend>(flags.threads, BatchInvariantCpuKernels());
    options.pool = &cpu->pool();
    loaded.backend = std::move(cpu);
    return absl::OkStatus();
  }
  if (flags.profile == kEdge) {
    return absl::InvalidArgumentError(
        "--profile=edge is of the CPU; want --device=cpu and fp32");
  }
  ASSIGN_OR_RETURN(loaded.backend, MakeBackend(flags.device, flags.threads));
  loaded.sampling = std::make_unique<ThreadPool>(flags.threads);
  options.pool = loaded.sampling.get();
  return absl::OkStatus();
}

bool IsQuantised(const StateStore& state) {
  const std::vector<std::string>& names = state.names();
  return std::any_of(names.begin(), names.end(), [&](const std::string& name) {
    return state.Peek(name).dtype == DType::kU8;
  });
}

// The weights of `folder` in 8 bits, each to its nearest.
absl::Status RoundWeights(const std::string& folder, const ModelConfig& config,
                          Backend& backend, StateStore& rounded) {
  StateStore wide(backend);
  RETURN_IF_ERROR(LoadModelWeights(folder, config, wide));
  GraphBuilder builder;
  DecoderOptions options;
  options.mode = DecoderOptions::Mode::kLogits;  // Without a cache.
  options.max_tokens = 1;
  BuildDecoder(builder, config, options);
  ASSIGN_OR_RETURN(const Graph graph, builder.Finish());
  ASSIGN_OR_RETURN(std::set<std::string> names, QuantizableParameters(config));
  const std::set<std::string> roundable = RoundableWeights(graph);
  for (auto it = names.begin(); it != names.end();) {
    it = roundable.count(*it) > 0 ? std::next(it) : names.erase(it);
  }
  return RoundParameters(graph, names, kEdgeWeights, wide, rounded);
}

absl::StatusOr<std::shared_ptr<ServedModel>> LoadVersion(
    const ServeFlags& flags, const std::string& path) {
  ASSIGN_OR_RETURN(const std::string folder, FindModel(path));
  ASSIGN_OR_RETURN(ModelConfig config, LoadModelConfig(folder));
  ASSIGN_OR_RETURN(const std::string hash, HashWeights(folder));
  auto loaded = std::make_shared<LoadedModel>();
  EngineOptions options = flags.engine;
  RETURN_IF_ERROR(MakeDevice(flags, *loaded, options));
  loaded->state = std::make_unique<StateStore>(*loaded->backend);
  ASSIGN_OR_RETURN(loaded->codec, LoadTextCodec(folder, config.vocab_size()));
  std::vector<UnusedTensor> unused;
  RETURN_IF_ERROR(LoadModelWeights(folder, config, *loaded->state, &unused,
                                   StorageOn(flags.device, flags.weights)));
  for (const std::string& line : DescribeUnused(unused)) PrintNote(line);
  if (flags.profile == kEdge && !IsQuantised(*loaded->state)) {
    loaded->state = std::make_unique<StateStore>(*loaded->backend);
    RETURN_IF_ERROR(
        RoundWeights(folder, config, *loaded->backend, *loaded->state));
    PrintNote(absl::StrFormat(
        "weights rounded to 8 bits, %.1f MB; strata quantize stores them so, "
        "calibrated",
        1e-6 * static_cast<double>(loaded->state->num_bytes())));
  }
  if (flags.max_context > 0) {
    config.set_max_seq_len(std::min(flags.max_context, config.max_seq_len()));
  }
  options.cache_bytes = static_cast<int64_t>(flags.cache_gib * kGiB);
  options.fuse = !flags.no_fuse;
  ASSIGN_OR_RETURN(loaded->engine, Engine::Create(config, *loaded->backend,
                                                  *loaded->state, options));
  constexpr size_t kShownDigits = 16;
  return std::make_shared<ServedModel>(*loaded->codec, *loaded->engine,
                                       hash.substr(0, kShownDigits), loaded);
}

absl::StatusOr<int> RunServe(ServeFlags flags) {
  const absl::Time start = absl::Now();
  InstallInterruptHandler();
  ApplyProfile(flags);
  RETURN_IF_ERROR(ReadConfigFile(flags));
  if (!flags.keys_file.empty()) {
    ASSIGN_OR_RETURN(flags.server.keys, ReadKeys(flags.keys_file));
  }
  if (!flags.admin_keys_file.empty()) {
    ASSIGN_OR_RETURN(flags.server.admin_keys, ReadKeys(flags.admin_keys_file));
  }
  ASSIGN_OR_RETURN(const std::shared_ptr<ServedModel> first,
                   LoadVersion(flags, flags.model));
  // Without a path, the model's own: the newest checkpoint of a run.
  flags.server.load = [flags](const std::string& path) {
    return LoadVersion(flags, path.empty() ? flags.model : path);
  };
  flags.server.model = NameOf(flags);
  if (!flags.quiet) {
    flags.server.log = [](const std::string& line) { PrintNote(line); };
  }
  ASSIGN_OR_RETURN(const std::unique_ptr<Server> server,
                   Server::Create(flags.server, first));
  PrintNote(absl::StrFormat(
      "%s (version %s) at http%s://%s:%d, %d tokens of context, %d of cache, "
      "ready after %.1f s",
      flags.server.model, first->version,
      flags.server.tls_key.empty() ? "" : "s", flags.server.host,
      server->port(), first->engine.max_tokens(),
      first->engine.stats().num_blocks * flags.engine.block_size,
      absl::ToDoubleSeconds(absl::Now() - start)));

  std::atomic<bool> ended{false};
  std::thread watch([&] {
    while (!ended && !InterruptRequested()) {
      absl::SleepFor(absl::Milliseconds(50));
    }
    server->Stop(absl::Seconds(flags.grace_seconds));
  });
  server->Run();
  ended = true;
  watch.join();
  return 0;
}

}  // namespace

Command AddServe(OptionParser& app) {
  OptionParser* serve = app.AddSubcommand(
      "serve", "Answer OpenAI's API over HTTP until SIGTERM or Ctrl-C");
  auto flags = std::make_shared<ServeFlags>();
  flags->app = serve;
  serve
      ->AddOption("--model", flags->model,
                  "Checkpoint, or run of which the newest is taken")
      ->TypeName("DIR")
      ->Required();
  serve
      ->AddOption("--config", flags->config_file,
                  "JSON object of these options, which the command line "
                  "overrides")
      ->TypeName("FILE");
  serve
      ->AddOption("--profile", flags->profile,
                  "edge: two threads, weights in 8 bits, an INT8 cache, few "
                  "sequences; other options override")
      ->TypeName("edge")
      ->Check(OneOf({kEdge}));
  serve->AddOption("--host", flags->server.host, "Address to listen on")
      ->TypeName("HOST");
  serve->AddOption("--port", flags->server.port, "0: any that is free")
      ->TypeName("N")
      ->Check(Between(0, kMaxPort));
  serve
      ->AddOption("--name", flags->name,
                  "The model's name in requests (default: the folder's)")
      ->TypeName("NAME");
  serve
      ->AddOption("--api-keys", flags->keys_file,
                  "File with the SHA-256 of a key in each line; without it "
                  "anybody may ask")
      ->TypeName("FILE");
  serve
      ->AddOption("--admin-keys", flags->admin_keys_file,
                  "The same, of who may load another version of the model "
                  "(/admin/load, /admin/rollback); without it nobody may")
      ->TypeName("FILE");
  serve
      ->AddOption("--requests-per-minute", flags->server.requests_per_minute,
                  "Of one key, or of one address where there are no keys; 0: "
                  "any number")
      ->TypeName("N")
      ->Check(AtLeast(0));
  serve
      ->AddOption("--webhook", flags->server.webhook,
                  "Where alarms are posted as JSON")
      ->TypeName("URL");
  serve
      ->AddOption("--virtual-ranks", flags->server.ranks.num_ranks,
                  "Ranks that the experts are thought to be shared by, whose "
                  "balance is watched")
      ->TypeName("N")
      ->Check(Between(1, 4096));
  serve
      ->AddOption("--tls-certificate", flags->server.tls_certificate,
                  "PEM file; with --tls-key the server speaks HTTPS")
      ->TypeName("FILE");
  serve->AddOption("--tls-key", flags->server.tls_key, "PEM file")
      ->TypeName("FILE");
  serve
      ->AddOption("--max-body-bytes", flags->server.max_body_bytes,
                  "Of a request")
      ->TypeName("N")
      ->Check(AtLeast(1));
  serve
      ->AddOption("--max-connections", flags->server.max_connections,
                  "Answered at a time; more wait")
      ->TypeName("N")
      ->Check(Between(1, 100000));
  serve
      ->AddOption("--max-seconds", flags->server.max_seconds,
                  "A request that takes longer is ended")
      ->TypeName("S")
      ->Check(MoreThanZero());
  serve
      ->AddOption("--max-sequences", flags->engine.max_sequences,
                  "Sequences in one step")
      ->TypeName("N")
      ->Check(AtLeast(1));
  serve
      ->AddOption("--max-step-tokens", flags->engine.max_step_tokens,
                  "Tokens in one step; at least --max-sequences")
      ->TypeName("N")
      ->Check(AtLeast(1));
  serve
      ->AddOption("--max-waiting", flags->engine.max_waiting,
                  "Answers that wait for their turn; more are refused")
      ->TypeName("N")
      ->Check(AtLeast(1));
  serve
      ->AddOption("--block-size", flags->engine.block_size,
                  "Tokens of a block of the cache")
      ->TypeName("N")
      ->Check(AtLeast(1));
  serve
      ->AddOption("--cache-gib", flags->cache_gib,
                  "Memory for keys and values, at most")
      ->TypeName("GIB")
      ->Check(MoreThanZero());
  AddCache(*serve, flags->engine.cache);
  serve
      ->AddOption("--max-context", flags->max_context,
                  "Tokens of prompt and answer together; 0: what the model "
                  "can")
      ->TypeName("N")
      ->Check(AtLeast(0));
  serve
      ->AddOption("--grace-seconds", flags->grace_seconds,
                  "How long answers may go on after SIGTERM")
      ->TypeName("S");
  serve->AddFlag("--no-fuse", flags->no_fuse,
                 "Run the basic operators of a block one by one");
  serve->AddFlag("--quiet", flags->quiet, "No line for each request");
  AddWeights(*serve, flags->weights);
  AddThreads(*serve, flags->threads);
  AddDevice(*serve, flags->device);
  return {serve, [flags] { return RunServe(*flags); }};
}

}  // namespace strata
