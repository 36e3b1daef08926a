#include "tools/llama_cpp/library.h"

#include <dlfcn.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "core/base/status_macros.h"

namespace strata {
namespace {

using Clock = std::chrono::steady_clock;

// A struct of options, passed and returned in memory. On this platform a caller
// may pass more bytes than the callee reads, if they come last.
struct Options {
  alignas(16) uint32_t word[256];
};

// What llama_decode takes; other fields null: positions follow on, logits of
// the last token.
struct Batch {
  int32_t num_tokens;
  int32_t* token;
  void* unused[5];
};

struct Api {
  Options (*model_defaults)();
  Options (*context_defaults)();
  Options (*pool_defaults)(int num_threads);
  void* (*load_model)(const char* path, Options options);
  void* (*new_context)(void* model, Options options);
  void (*free_context)(void* context);
  void (*free_model)(void* model);
  uint32_t (*context_size)(const void* context);
  uint32_t (*batch_size)(const void* context);
  uint32_t (*micro_batch_size)(const void* context);
  void (*set_threads)(void* context, int32_t decode, int32_t prefill);
  void (*attach_pool)(void* context, void* decode, void* prefill);
  void (*detach_pool)(void* context);
  Batch (*batch_of)(int32_t* ids, int32_t count);
  int32_t (*decode)(void* context, Batch batch);
  float* (*logits)(void* context, int32_t row);
  void* (*memory)(void* context);
  void (*clear)(void* memory, bool data);
  const char* (*system_info)();
  void (*load_backends)(const char* folder);
  void* (*backend)(const char* name);
  void* (*backend_function)(void* backend, const char* name);
  void (*set_log)(void (*log)(int, const char*, void*), void* data);
  // Of the backend.
  void* (*new_pool)(Options* options);
  void (*free_pool)(void* pool);
};

absl::StatusOr<void*> OpenLibrary(const std::string& folder,
                                  const std::string& prefix) {
  std::vector<std::string> found;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    if (absl::StartsWith(name, prefix) && absl::StrContains(name, ".so") &&
        !absl::StrContains(name, "-cpu") &&
        !absl::StrContains(name, "-common")) {
      found.push_back(entry.path().string());
    }
  }
  std::sort(found.begin(), found.end());
  for (const std::string& path : found) {
    if (void* const library = dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL)) {
      return library;
    }
    return absl::NotFoundError(dlerror());
  }
  return absl::NotFoundError(
      absl::StrCat(folder, " holds no ", prefix, "*.so"));
}

template <typename Function>
absl::Status Find(const std::vector<void*>& libraries, const char* name,
                  Function& function) {
  for (void* const library : libraries) {
    if (void* const found = dlsym(library, name)) {
      function = reinterpret_cast<Function>(found);
      return absl::OkStatus();
    }
  }
  return absl::UnimplementedError(
      absl::StrCat("this llama.cpp has no function ", name));
}

absl::StatusOr<Api> OpenApi(const std::string& folder) {
  std::vector<void*> libraries;
  for (const char* const prefix : {"libllama", "libggml-base", "libggml.v"}) {
    absl::StatusOr<void*> library = OpenLibrary(folder, prefix);
    if (absl::IsNotFound(library.status()) && prefix[7] == '.') {
      library = OpenLibrary(folder, "libggml.so");
    }
    RETURN_IF_ERROR(library.status());
    libraries.push_back(*library);
  }
  Api api;
  const auto find = [&](const char* name, auto& function) {
    return Find(libraries, name, function);
  };
  RETURN_IF_ERROR(find("llama_model_default_params", api.model_defaults));
  RETURN_IF_ERROR(find("llama_context_default_params", api.context_defaults));
  RETURN_IF_ERROR(find("ggml_threadpool_params_default", api.pool_defaults));
  RETURN_IF_ERROR(find("llama_model_load_from_file", api.load_model));
  RETURN_IF_ERROR(find("llama_init_from_model", api.new_context));
  RETURN_IF_ERROR(find("llama_free", api.free_context));
  RETURN_IF_ERROR(find("llama_model_free", api.free_model));
  RETURN_IF_ERROR(find("llama_n_ctx", api.context_size));
  RETURN_IF_ERROR(find("llama_n_batch", api.batch_size));
  RETURN_IF_ERROR(find("llama_n_ubatch", api.micro_batch_size));
  RETURN_IF_ERROR(find("llama_set_n_threads", api.set_threads));
  RETURN_IF_ERROR(find("llama_attach_threadpool", api.attach_pool));
  RETURN_IF_ERROR(find("llama_detach_threadpool", api.detach_pool));
  RETURN_IF_ERROR(find("llama_batch_get_one", api.batch_of));
  RETURN_IF_ERROR(find("llama_decode", api.decode));
  RETURN_IF_ERROR(find("llama_get_logits_ith", api.logits));
  RETURN_IF_ERROR(find("llama_get_memory", api.memory));
  RETURN_IF_ERROR(find("llama_memory_clear", api.clear));
  RETURN_IF_ERROR(find("llama_print_system_info", api.system_info));
  RETURN_IF_ERROR(find("ggml_backend_load_all_from_path", api.load_backends));
  RETURN_IF_ERROR(find("ggml_backend_reg_by_name", api.backend));
  RETURN_IF_ERROR(
      find("ggml_backend_reg_get_proc_address", api.backend_function));
  RETURN_IF_ERROR(find("llama_log_set", api.set_log));
  // Its log is long; what it refuses, its results say.
  api.set_log([](int, const char*, void*) {}, nullptr);
  api.load_backends(folder.c_str());
  void* const cpu = api.backend("CPU");
  if (cpu == nullptr) {
    return absl::NotFoundError(
        absl::StrCat(folder, " holds no backend for this processor"));
  }
  api.new_pool = reinterpret_cast<void* (*)(Options*)>(
      api.backend_function(cpu, "ggml_threadpool_new"));
  api.free_pool = reinterpret_cast<void (*)(void*)>(
      api.backend_function(cpu, "ggml_threadpool_free"));
  if (api.new_pool == nullptr || api.free_pool == nullptr) {
    return absl::UnimplementedError("this llama.cpp has no pools of threads");
  }
  return api;
}

class Model : public LlamaCppModel {
 public:
  explicit Model(Api api) : api_(api) {}
  ~Model() override {
    if (context_ != nullptr) api_.free_context(context_);
    if (model_ != nullptr) api_.free_model(model_);
  }

  absl::Status Load(const std::string& path, int64_t context) {
    model_ = api_.load_model(path.c_str(), api_.model_defaults());
    if (model_ == nullptr) {
      return absl::InvalidArgumentError(
          absl::StrCat("llama.cpp refuses ", path));
    }
    // Prompts in one batch of 512 at most, as its own benchmark has it.
    constexpr uint32_t kBatch = 512;
    Options options = api_.context_defaults();
    options.word[0] = static_cast<uint32_t>(context);
    options.word[1] = options.word[2] = kBatch;
    context_ = api_.new_context(model_, options);
    if (context_ == nullptr || api_.context_size(context_) < context ||
        api_.batch_size(context_) != kBatch ||
        api_.micro_batch_size(context_) != kBatch) {
      return absl::UnimplementedError(
          "this llama.cpp lays its options out in another way");
    }
    return absl::OkStatus();
  }

  absl::StatusOr<double> Prefill(absl::Span<const int32_t> ids,
                                 int num_threads) override {
    const Threads threads(*this, num_threads);
    return Run(ids);
  }

  absl::StatusOr<std::vector<double>> Decode(absl::Span<const int32_t> ids,
                                             int num_threads) override {
    const Threads threads(*this, num_threads);
    RETURN_IF_ERROR(Run(ids.subspan(0, 1)).status());
    std::vector<double> seconds;
    Clock::time_point start = Clock::now();
    for (int32_t id : ids.subspan(1)) {
      RETURN_IF_ERROR(Advance(&id, 1));
      if (Logits() == nullptr) {
        return absl::InternalError("llama.cpp gave no logits");
      }
      const Clock::time_point end = Clock::now();
      seconds.push_back(std::chrono::duration<double>(end - start).count());
      start = end;
    }
    return seconds;
  }

  std::string Description() const override { return api_.system_info(); }

 private:
  // Its own threads, as long as it has the machine.
  class Threads {
   public:
    Threads(Model& model, int num_threads) : model_(model) {
      const Api& api = model.api_;
      Options options = api.pool_defaults(num_threads);
      pool_ = api.new_pool(&options);
      api.attach_pool(model.context_, pool_, pool_);
      api.set_threads(model.context_, num_threads, num_threads);
    }
    ~Threads() {
      model_.api_.detach_pool(model_.context_);
      // Its backend keeps the pool until it next computes, and then pauses it:
      // had it been freed by then, it might wait for ever.
      const int32_t token = 0;
      model_.Run({token}).IgnoreError();
      model_.api_.free_pool(pool_);
    }

   private:
    Model& model_;
    void* pool_;
  };

  absl::StatusOr<double> Run(absl::Span<const int32_t> ids) {
    api_.clear(api_.memory(context_), /*data=*/true);
    std::vector<int32_t> copy(ids.begin(), ids.end());
    const Clock::time_point start = Clock::now();
    RETURN_IF_ERROR(Advance(copy.data(), static_cast<int32_t>(copy.size())));
    if (Logits() == nullptr) {
      return absl::InternalError("llama.cpp gave no logits");
    }
    const std::chrono::duration<double> seconds = Clock::now() - start;
    return seconds.count();
  }

  absl::Status Advance(int32_t* ids, int32_t count) {
    const int32_t error = api_.decode(context_, api_.batch_of(ids, count));
    if (error == 0) return absl::OkStatus();
    return absl::InternalError(absl::StrCat("llama_decode gave ", error));
  }

  // Of the last token; waits for them.
  const float* Logits() const { return api_.logits(context_, -1); }

  const Api api_;
  void* model_ = nullptr;
  void* context_ = nullptr;
};

}  // namespace

absl::StatusOr<std::unique_ptr<LlamaCppModel>> LlamaCppModel::Open(
    const std::string& folder, const std::string& path, int64_t context) {
  static const absl::StatusOr<Api>* const api =
      new absl::StatusOr<Api>(OpenApi(folder));
  RETURN_IF_ERROR(api->status());
  auto model = std::make_unique<Model>(**api);
  RETURN_IF_ERROR(model->Load(path, context));
  return std::unique_ptr<LlamaCppModel>(std::move(model));
}

}  // namespace strata
