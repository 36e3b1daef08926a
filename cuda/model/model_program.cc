#include "cuda/model/model_program.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "core/base/status_macros.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/model/count.h"
#include "core/ops/gate_select.h"
#include "core/passes/narrow_weights.h"
#include "core/passes/pack_caches.h"
#include "core/passes/quantize_weights.h"
#include "core/quant/cache_format.h"
#include "core/quant/packed_parameters.h"
#include "core/runtime/fuse_for.h"
#include "core/tensor/dtype.h"
#include "core/tensor/tensor.h"
#include "cuda/model/random_fill.h"
#include "cuda/ops/all_kernels.h"
#include "cuda/runtime/status.h"

namespace strata::gpu {

absl::StatusOr<std::unique_ptr<ModelProgram>> ModelProgram::Create(
    const ModelConfig& config, const ModelWork& work, bool fuse) {
  auto model = std::unique_ptr<ModelProgram>(new ModelProgram(config, work));
  CudaOptions options;
  options.precision = Precision::kBf16;
  ASSIGN_OR_RETURN(model->backend_,
                   CudaBackend::Create(options, AllCudaKernels()));
  model->state_ = std::make_unique<StateStore>(*model->backend_);
  RETURN_IF_ERROR(model->Compile(fuse));
  RETURN_IF_ERROR(model->FillState());
  return model;
}

absl::Status ModelProgram::Compile(bool fuse) {
  ModelConfig config = config_;
  if (work_.context > 0) config.set_max_seq_len(work_.max_context);
  DecoderOptions options;
  options.mode = work_.context > 0 ? DecoderOptions::Mode::kGenerate
                                   : DecoderOptions::Mode::kLogits;
  options.max_tokens = work_.batch * work_.tokens;
  options.max_sequences = work_.batch;
  options.max_logits = work_.batch;
  GraphBuilder builder;
  const Decoder decoder = BuildDecoder(builder, config, options);
  RETURN_IF_ERROR(builder.status());
  TopKOptions best;
  best.k = 1;
  builder.Output("next",
                 TopKSelect(builder, builder.graph().outputs().at("logits"),
                            /*bias=*/kNone, best));
  ASSIGN_OR_RETURN(Graph graph, builder.Finish());
  for (const RouterValues& router : decoder.routers) {
    offsets_.push_back(router.OffsetName());
    graph.SetOutput(router.OffsetName(), router.offset);
  }
  ASSIGN_OR_RETURN(graph, PackCaches(graph, {work_.cache}));
  const std::set<std::string> narrow = NarrowableWeights(graph);
  Graph stored = NarrowWeights(graph, narrow);
  if (work_.packed) {
    for (const std::string& name : QuantizableWeights(graph)) {
      if (IsOfGate(name)) continue;
      formats_[name].bits = absl::StrContains(name, "lm_head") ? 8 : 4;
    }
    ASSIGN_OR_RETURN(stored, QuantizeWeights(graph, formats_));
    const std::set<std::string> others = NarrowableWeights(stored);
    stored = NarrowWeights(stored, others);
  }
  RETURN_IF_ERROR(state_->Declare(stored));
  if (fuse) graph = FuseFor(graph, *backend_, *state_);
  ASSIGN_OR_RETURN(program_,
                   Program::Compile(std::move(graph), *backend_, *state_));
  return absl::OkStatus();
}

absl::Status ModelProgram::FillState() {
  uint64_t seed = 1;
  for (const std::string& name : state_->names()) {
    const TensorView& tensor = state_->Peek(name);
    const bool gain = absl::StrContains(name, "norm");
    const bool matrix = state_->role(name) == Role::kParameter && !gain;
    const auto columns =
        static_cast<float>(tensor.dim(static_cast<int>(tensor.rank()) - 1));
    float deviation = matrix ? 1 / std::sqrt(columns) : 1.f;
    if (gain) deviation = 0.1f;
    if (absl::StrContains(name, "bias")) deviation = 0.01f;
    ASSIGN_OR_RETURN(char* const data,
                     backend_->DeviceAddress(tensor.data, tensor.num_bytes()));
    seed += uint64_t{1} << 40;
    if (const auto it = formats_.find(name); it != formats_.end()) {
      // Codes have a deviation of the root of (2^(2 bits) - 1) / 12, and groups
      // of 32 columns 34 bytes, or 18.
      const double codes = std::sqrt((std::pow(4, it->second.bits) - 1) / 12);
      const double k = columns * 32 / (4 * it->second.bits + 2);
      RETURN_IF_ERROR(ToStatus(FillPackedRandom(
          reinterpret_cast<uint8_t*>(data), tensor.num_elements(),
          static_cast<int64_t>(columns),
          static_cast<int64_t>(k) * it->second.bits / 8, it->second.bits,
          static_cast<float>(1 / std::sqrt(k) / codes), seed,
          backend_->stream())));
      continue;
    }
    // Packed weights are done with: bytes are those of a cache, whose numbers
    // are BF16, or scales of codes are.
    const bool bytes = tensor.dtype == DType::kU8;
    if (bytes && work_.cache != CacheFormat::kBF16) deviation = 0.01f;
    RETURN_IF_ERROR(ToStatus(
        FillRandom(data, bytes ? tensor.num_bytes() / 2 : tensor.num_elements(),
                   bytes || tensor.dtype == DType::kBF16, gain ? 1.f : 0.f,
                   deviation, seed, backend_->stream())));
  }
  for (int64_t i = 0; i < work_.batch * work_.tokens; ++i) {
    program_->Input("ids").as<int32_t>()[i] =
        static_cast<int32_t>(i * 7919 % config_.vocab_size());
  }
  return absl::OkStatus();
}

absl::Status ModelProgram::Run(int64_t context) {
  Program& p = *program_;
  const int64_t rows = work_.batch * work_.tokens;
  const auto input = [&](const char* name) {
    return p.Input(name).as<int32_t>();
  };
  *input("num_tokens") = static_cast<int32_t>(rows);
  *input("num_logits") = static_cast<int32_t>(work_.batch);
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t sequence = i / work_.tokens;
    const int64_t position = context + i % work_.tokens;
    input("position")[i] = static_cast<int32_t>(position);
    if (work_.context == 0) continue;
    const int64_t first = sequence * work_.max_context;
    input("first_row")[i] = static_cast<int32_t>(first);
    input("cache_row")[i] = static_cast<int32_t>(first + position);
  }
  for (int64_t s = 0; s < work_.batch; ++s) {
    input("logit_row")[s] = static_cast<int32_t>((s + 1) * work_.tokens - 1);
  }
  for (int64_t s = 0; work_.context == 0 && s <= work_.batch; ++s) {
    input("seq_start")[s] = static_cast<int32_t>(s * work_.tokens);
  }
  RETURN_IF_ERROR(p.Run());
  const TensorView next = p.Output("next");
  for (int64_t s = 0; s < work_.batch; ++s) {
    input("ids")[s * work_.tokens] = next.as<int32_t>()[s];
  }
  return absl::OkStatus();
}

double ModelProgram::Bytes(int64_t context) const {
  double bytes = 0, experts = 0;
  for (const std::string& name : state_->names()) {
    if (state_->role(name) != Role::kParameter) continue;
    const auto size = static_cast<double>(state_->Peek(name).num_bytes());
    if (absl::StrContains(name, ".experts.")) {
      experts += size;
    } else if (!absl::StrContains(name, "embed_tokens")) {
      bytes += size;
    }
  }
  double chosen = 0, all = 0;
  for (const std::string& name : offsets_) {
    const TensorView offset = program_->Output(name);
    for (int64_t e = 0; e + 1 < offset.num_elements(); ++e) {
      chosen += offset.as<int32_t>()[e + 1] > offset.as<int32_t>()[e];
      all += 1;
    }
  }
  bytes += all > 0 ? experts * chosen / all : 0;
  for (const std::string& name : state_->names()) {
    if (!absl::StartsWith(name, "cache.")) continue;
    const TensorView& cache = state_->Peek(name);
    bytes += static_cast<double>(cache.num_bytes() / cache.dim(0)) *
             static_cast<double>(work_.batch * (context + work_.tokens));
  }
  return bytes;
}

double ModelProgram::Flops() const {
  const ParameterCount count = CountParametersByPart(config_);
  const double of_token =
      static_cast<double>(count.attention + count.dense + count.gates +
                          count.shared_experts) +
      static_cast<double>(count.routed_experts) *
          static_cast<double>(MaxActiveExperts(config_)) /
          static_cast<double>(NumRoutedExperts(config_));
  const auto rows = static_cast<double>(work_.batch * work_.tokens);
  const AttentionConfig& a = config_.attention();
  const LatentAttentionConfig& l = a.latent();
  const int64_t head = a.has_latent()
                           ? l.nope_dim() + l.rope_dim() + l.value_dim()
                           : 2 * a.head_dim();
  const double pairs = rows * static_cast<double>(work_.tokens + 1) / 2;
  return 2 * rows * of_token +
         2 * static_cast<double>(work_.batch * count.output) +
         2 * pairs *
             static_cast<double>(config_.num_layers() * a.num_heads() * head);
}

}  // namespace strata::gpu
