#include "core/passes/fuse/fuse_models.h"

#include <cmath>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/base/random.h"
#include "core/base/status_macros.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/model/config.pb.h"
#include "core/model/decoder.h"
#include "core/model/tiny_configs.h"
#include "core/passes/fuse/fuse.h"
#include "core/passes/narrow_weights.h"
#include "core/passes/pack_caches.h"
#include "core/runtime/kernel_registry.h"
#include "core/runtime/program.h"
#include "core/runtime/state_store.h"
#include "core/tensor/bfloat16.h"
#include "core/tensor/dtype.h"
#include "core/tensor/tensor.h"

namespace strata {

namespace {

// With room for the positions of a step's tokens.
ModelConfig Long(ModelConfig config) {
  config.set_max_seq_len(160);
  return config;
}

}  // namespace

ModelConfig DenseModel() { return Long(Dense()); }

ModelConfig BiasedModel() {
  ModelConfig config = DenseModel();
  config.set_name("biased");
  config.set_mlp_bias(true);
  AttentionConfig& attention = *config.mutable_attention();
  attention.set_head_dim(10);
  attention.set_bias(true);
  attention.set_qk_norm(true);
  attention.set_window(20);
  attention.set_rope_interleaved(true);
  return config;
}

ModelConfig FlatModel() {
  ModelConfig config = Long(Flat());
  config.mutable_moe()->set_expert_width(18);  // No multiple of a vector's.
  return config;
}

ModelConfig GroupedModel() {
  ModelConfig config = Long(SigmoidGroups());
  config.set_name("grouped");
  config.set_num_dense_layers(0);
  config.clear_dense_width();
  return config;
}

ModelConfig LatentModel() { return Long(Latent()); }

ModelConfig PlainLatentModel() {
  ModelConfig config = Long(LatentYarn());
  config.set_name("plain latent");
  config.mutable_attention()->clear_rope_scaling();
  return config;
}

ModelConfig HierarchicalModel() { return Long(Hierarchical()); }

std::vector<std::string> OpNames(const Graph& graph, const std::string& scope) {
  std::vector<std::string> names;
  for (const Node& node : graph.nodes()) {
    if (node.scope.compare(0, scope.size(), scope) == 0) {
      names.emplace_back(node.op->name);
    }
  }
  return names;
}

absl::StatusOr<Graph> StepGraph(const ModelConfig& config,
                                const StepOptions& options) {
  GraphBuilder b(options.compute);
  DecoderOptions decode;
  decode.mode = DecoderOptions::Mode::kGenerate;
  decode.max_tokens = options.max_tokens;
  decode.max_sequences = kStepSequences;
  decode.max_logits = options.max_tokens;
  decode.cache_blocks = options.cache_blocks;
  decode.block_size = kStepBlockSize;
  const Decoder decoder = BuildDecoder(b, config, decode);
  ASSIGN_OR_RETURN(Graph graph, b.Finish());
  for (const RouterValues& router : decoder.routers) {
    graph.SetOutput(router.OffsetName(), router.offset);
  }
  ASSIGN_OR_RETURN(graph,
                   PackCaches(graph, {options.cache, options.attention_bits}));
  if (options.fuse) graph = Fuse(graph);
  RETURN_IF_ERROR(Verify(graph));
  if (options.narrow) graph = NarrowWeights(graph, NarrowableWeights(graph));
  return graph;
}

namespace {

template <typename T>
void FillAs(const TensorView& view, double scale, Random& random) {
  for (T& x : view.span<T>()) {
    const auto value = static_cast<float>(scale * random.Normal());
    // The same in every dtype.
    x = static_cast<T>(Widen(RoundToBFloat16(value)));
  }
}

void Fill(const std::string& name, const TensorView& view) {
  Random random(/*seed=*/5, HashName(name));
  const double fan_in =
      view.rank() > 1 ? static_cast<double>(view.shape.back()) : 1;
  const bool is_cache = name.find("cache.") == 0;
  const double scale = is_cache ? 1 : 1.5 / std::sqrt(fan_in);
  if (view.dtype == DType::kF64) return FillAs<double>(view, scale, random);
  if (view.dtype == DType::kF32) return FillAs<float>(view, scale, random);
  // Of bytes: a cache in BF16.
  TensorView numbers = view;
  if (view.dtype == DType::kU8) {
    numbers.dtype = DType::kBF16;
    numbers.shape.back() /= 2;
  }
  for (BFloat16& x : numbers.span<BFloat16>()) {
    x = RoundToBFloat16(static_cast<float>(scale * random.Normal()));
  }
}

std::vector<double> InDouble(const TensorView& view) {
  const int64_t n = view.num_elements();
  std::vector<double> values(n);
  for (int64_t i = 0; i < n; ++i) {
    values[i] = view.dtype == DType::kF64   ? view.as<double>()[i]
                : view.dtype == DType::kF32 ? view.as<float>()[i]
                : view.dtype == DType::kI32 ? view.as<int32_t>()[i]
                : view.dtype == DType::kU8  ? view.as<uint8_t>()[i]
                                            : Widen(view.as<BFloat16>()[i]);
  }
  return values;
}

}  // namespace

absl::StatusOr<std::unique_ptr<StepModel>> StepModel::Create(
    const ModelConfig& config, KernelRegistry kernels,
    const StepOptions& options) {
  auto model = std::unique_ptr<StepModel>(
      new StepModel(std::move(kernels), options.num_threads));
  ASSIGN_OR_RETURN(Graph graph, StepGraph(config, options));
  model->paged_ = options.cache_blocks > 0;
  model->max_seq_len_ = config.max_seq_len();
  Program::Options compile;
  compile.reuse_memory = options.reuse_memory;
  ASSIGN_OR_RETURN(model->program_,
                   Program::Compile(std::move(graph), model->backend_,
                                    model->state_, compile));
  for (const std::string& name : model->state_.names()) {
    Fill(name, model->state_.Get(name));
  }
  return model;
}

absl::Status StepModel::Run(int64_t tokens) {
  const auto input = [&](const char* name) {
    return program_->Input(name).as<int32_t>();
  };
  *input("num_tokens") = *input("num_logits") = static_cast<int32_t>(tokens);
  const int64_t first = tokens / 2;  // Of sequence 0; then 1, then 2.
  for (int32_t i = 0; i < tokens; ++i) {
    const int32_t sequence = i < first ? 0 : i == first ? 1 : 2;
    const auto begin = static_cast<int32_t>(sequence == 2 ? first + 1 : first);
    const int32_t at = 3 + (sequence == 0 ? i : i - begin);
    input("ids")[i] = (7 * i + 3) % 50;
    input("position")[i] = at;
    input("logit_row")[i] = i;
    if (paged_) {
      const int64_t blocks = program_->Input("block_table").dim(1);
      int32_t* const table = input("block_table");
      for (int64_t block = 0; block < blocks; ++block) {
        // Blocks of the sequences lie one from each in turn.
        table[sequence * blocks + block] =
            static_cast<int32_t>(block * kStepSequences + sequence);
      }
      input("sequence")[i] = sequence;
      input("cache_row")[i] = static_cast<int32_t>(
          table[sequence * blocks + at / kStepBlockSize] * kStepBlockSize +
          at % kStepBlockSize);
    } else {
      const auto row = static_cast<int32_t>(sequence * max_seq_len_);
      input("first_row")[i] = row;
      input("cache_row")[i] = row + at;
    }
  }
  return program_->Run();
}

std::map<std::string, std::vector<double>> StepModel::Results() const {
  std::map<std::string, std::vector<double>> results;
  for (const auto& [name, value] : program_->graph().outputs()) {
    results[name] = InDouble(program_->Output(name));
  }
  for (const std::string& name : state_.names()) {
    results[name] = InDouble(state_.Get(name));
  }
  return results;
}

}  // namespace strata
