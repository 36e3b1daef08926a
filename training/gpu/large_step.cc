#include "training/gpu/large_step.h"

#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/graph/graph.h"
#include "core/model/config.pb.h"
#include "core/model/count.h"
#include "core/model/gate.h"
#include "core/parallel/mesh.h"
#include "core/passes/bf16_training.h"
#include "core/passes/hide_exchanges.h"
#include "core/passes/partition/partition_experts.h"
#include "core/runtime/program.h"
#include "core/runtime/state_store.h"
#include "core/tensor/dtype.h"
#include "core/tensor/tensor.h"
#include "cuda/model/random_fill.h"
#include "cuda/ops/all_kernels.h"
#include "cuda/runtime/cuda_backend.h"
#include "cuda/runtime/status.h"
#include "training/config.pb.h"
#include "training/step_graph.h"

namespace strata::gpu {

absl::StatusOr<std::unique_ptr<LargeStep>> LargeStep::Create(
    const ModelConfig& model, const TrainConfig& train,
    const LargeStepRank& rank) {
  auto step = std::unique_ptr<LargeStep>(new LargeStep(model, train, rank));
  CudaOptions options;
  options.device = rank.device;
  options.mesh = rank.mesh;
  options.precision = Precision::kBf16;
  ASSIGN_OR_RETURN(step->backend_,
                   CudaBackend::Create(options, AllCudaKernels()));
  step->state_ = std::make_unique<StateStore>(*step->backend_);
  RETURN_IF_ERROR(step->Compile());
  RETURN_IF_ERROR(step->FillState());
  return step;
}

MeshPlace LargeStep::Place() const {
  if (rank_.mesh == nullptr) return {};
  return {rank_.mesh->shape(), rank_.mesh->dp().rank(), rank_.mesh->ep().rank(),
          rank_.mesh->pp().rank(), ExpertSlots()};
}

int LargeStep::NumRanks() const {
  return rank_.mesh == nullptr ? 1 : rank_.mesh->batch().size();
}

int LargeStep::BatchRank() const {
  return rank_.mesh == nullptr ? 0 : rank_.mesh->batch().rank();
}

absl::Status LargeStep::Compile() {
  const int64_t sequences = train_.batch_size(), seq_len = train_.seq_len();
  const WeightState state = train_.state_precision() == TrainConfig::BF16
                                ? WeightState::kBf16
                                : WeightState::kHalves;
  if (train_.state_precision() != TrainConfig::FP32) {
    ASSIGN_OR_RETURN(
        const StepGraph forward,
        BuildEvaluationGraph(model_, sequences, seq_len, DType::kF32,
                             RouteSource::kGate, MeshPlace()));
    bf16_weights_ = Bf16Weights(forward.graph);
  }
  if (rank_.overlap_sums && train_.accumulation() > 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("sums beside the backward pass want one micro-batch, not ",
                     train_.accumulation()));
  }
  GradientSums within;
  within.made = rank_.overlap_sums && rank_.mesh != nullptr;
  ASSIGN_OR_RETURN(
      StepGraph gradients,
      BuildGradientGraph(model_, sequences, seq_len, DType::kF32,
                         RouteSource::kGate, Place(), within, /*fused=*/true));
  gradients = InLessMemory(std::move(gradients));
  if (rank_.overlap_rows) {
    gradients.graph =
        HideExchanges(gradients.graph, backend_->flops_per_wire_byte());
  }
  ASSIGN_OR_RETURN(gradients,
                   InBf16(std::move(gradients), bf16_weights_, state));
  RankSums sums;
  sums.over_ranks = rank_.mesh != nullptr;
  sums.in_gradients = within.made;
  sums.shard_optimizer = rank_.shard_optimizer;
  sums.place = Place();
  sums.shards = gradients.shards;
  ASSIGN_OR_RETURN(const Graph update,
                   BuildUpdateGraph(gradients.graph, model_, train_, sums));
  // Moments first, so that what is said not to fit is the activations.
  ASSIGN_OR_RETURN(update_,
                   Program::Compile(UpdateInBf16(update, bf16_weights_, state),
                                    *backend_, *state_));
  ASSIGN_OR_RETURN(gradients_, Program::Compile(std::move(gradients.graph),
                                                *backend_, *state_));
  return absl::OkStatus();
}

absl::Status LargeStep::FillState() {
  uint64_t seed = 1;
  for (const std::string& name : state_->names()) {
    if (state_->role(name) != Role::kParameter) continue;  // Zeros.
    const TensorView& tensor = state_->Peek(name);
    const bool gain = absl::StrContains(name, "norm");
    const auto columns =
        static_cast<float>(tensor.dim(static_cast<int>(tensor.rank()) - 1));
    ASSIGN_OR_RETURN(char* const data,
                     backend_->DeviceAddress(tensor.data, tensor.num_bytes()));
    seed += uint64_t{1} << 40;  // The same on each rank that holds the same.
    RETURN_IF_ERROR(ToStatus(
        FillRandom(data, tensor.num_elements(), tensor.dtype == DType::kBF16,
                   gain ? 1.f : 0.f, gain ? 0.1f : 1 / std::sqrt(columns), seed,
                   backend_->stream())));
  }
  const int64_t rows = train_.batch_size() * train_.seq_len();
  const auto input = [&](const char* name) {
    return gradients_->Input(name).as<int32_t>();
  };
  *input("num_tokens") = static_cast<int32_t>(rows);
  for (int64_t s = 0; s <= train_.batch_size(); ++s) {
    input("seq_start")[s] = static_cast<int32_t>(s * train_.seq_len());
  }
  for (int64_t i = 0; i < rows; ++i) {
    input("position")[i] = static_cast<int32_t>(i % train_.seq_len());
  }
  *update_->Input("divisor").as<float>() =
      static_cast<float>(train_.accumulation() * NumRanks());
  *update_->Input("learning_rate").as<float>() =
      static_cast<float>(train_.learning_rate());
  return absl::OkStatus();
}

absl::Status LargeStep::Gradients() {
  const int64_t rows = train_.batch_size() * train_.seq_len();
  const int64_t vocab = model_.vocab_size();
  const int64_t first = BatchRank() * train_.accumulation();
  loss_ = 0;
  for (int64_t m = 0; m < train_.accumulation(); ++m) {
    int32_t* const ids = gradients_->Input("ids").as<int32_t>();
    int32_t* const target = gradients_->Input("target").as<int32_t>();
    for (int64_t i = 0; i < rows; ++i) {
      // Multiplication by an odd number (Knuth's), its upper bits: tokens that
      // repeat only where two of the step hit the same.
      const auto token = [&](int64_t at) {
        const uint64_t mixed =
            static_cast<uint64_t>((first + m) * rows + at + 1) *
            uint64_t{0x9e3779b97f4a7c15};
        return static_cast<int32_t>((mixed >> 32) %
                                    static_cast<uint64_t>(vocab));
      };
      ids[i] = token(i);
      target[i] = (i + 1) % train_.seq_len() == 0 ? -1 : token(i + 1);
    }
    *gradients_->Input("keep").as<float>() = m == 0 ? 0.f : 1.f;
    RETURN_IF_ERROR(gradients_->Run());
    loss_ += *gradients_->Output("loss").as<float>() /
             static_cast<double>(train_.accumulation());
  }
  return absl::OkStatus();
}

absl::Status LargeStep::Update() {
  *update_->Input("step").as<int32_t>() = ++step_;
  return update_->Run();
}

std::vector<std::vector<int64_t>> LargeStep::ExpertLoads() const {
  std::vector<std::vector<int64_t>> loads;
  for (const std::string& name : state_->names()) {
    if (GateOfLoad(name).empty()) continue;
    const auto offset = state_->Get(name).span<int32_t>();
    std::vector<int64_t>& rows = loads.emplace_back();
    for (size_t e = 0; e + 1 < offset.size(); ++e) {
      rows.push_back(int64_t{offset[e + 1]} - offset[e]);
    }
  }
  return loads;
}

int64_t LargeStep::tokens() const {
  return train_.accumulation() * train_.batch_size() * train_.seq_len();
}

int64_t LargeStep::num_parameters() const {
  int64_t elements = 0;
  for (const std::string& name : state_->names()) {
    if (state_->role(name) == Role::kParameter) {
      elements += state_->Peek(name).num_elements();
    }
  }
  return elements;
}

double LargeStep::UpdateBytes() const {
  double bytes = 0;
  for (const std::string& name : state_->names()) {
    if (state_->role(name) != Role::kParameter) continue;
    // Read and written: the weight, whose halves may be apart, and two moments.
    for (const char* part : {"", "low.", "adam.m.", "adam.v."}) {
      const std::string state = absl::StrCat(part, name);
      if (!state_->Has(state)) continue;
      bytes += 2 * static_cast<double>(state_->Peek(state).num_bytes());
    }
    // Read twice: for the norm, and for the step.
    bytes += 2 * static_cast<double>(state_->Peek(GradName(name)).num_bytes());
  }
  return bytes;
}

double LargeStep::Flops() const {
  const ParameterCount count = CountParametersByPart(model_);
  const double of_token =
      static_cast<double>(count.attention + count.dense + count.gates +
                          count.shared_experts + count.output) +
      static_cast<double>(count.routed_experts) *
          static_cast<double>(MaxActiveExperts(model_)) /
          static_cast<double>(NumRoutedExperts(model_));
  const auto rows = static_cast<double>(tokens());
  const LatentAttentionConfig& l = model_.attention().latent();
  const double pairs = rows * static_cast<double>(train_.seq_len() + 1) / 2;
  const auto key = static_cast<double>(l.nope_dim() + l.rope_dim());
  const auto value = static_cast<double>(l.value_dim());
  const auto heads =
      static_cast<double>(model_.num_layers() * model_.attention().num_heads());
  return 6 * rows * of_token +
         2 * pairs * heads * (key + value + 3 * key + 2 * value);
}

}  // namespace strata::gpu
