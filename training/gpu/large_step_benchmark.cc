// bazel run --config=cuda -c opt //training/gpu:large_step_benchmark
//
// A training step of a mixture of experts of 7.05 B parameters
// (cuda/model/moe-7b.textproto), 8 sequences of 2,048 tokens, AdamW, random
// weights and tokens: from the first micro-batch's Run() to the update's
// return. BF16 state, then FP32 with weights in halves, then FP32, each in as
// few micro-batches as fit; what does not fit is said with its numbers.
//
//   MFU      products' operations (LargeStep::Flops) over 989 TFLOP/s, and over
//            those a second of cuBLAS' BF16 product of 8192^3 in this run
//   update   its bytes over those a second of a copy in this run
//
// STRATA_STATE=BF16 runs that state alone, as TrainConfig calls it;
// STRATA_MICRO_BATCHES=N begins with N micro-batches; STRATA_PROFILE=1 adds the
// time of each operator, run one after another, so with the wait for each.

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/base/check.h"
#include "core/model/config.pb.h"
#include "core/model/preset.h"
#include "cuda/model/energy_meter.h"
#include "cuda/model/moe_7b_text.h"
#include "cuda/testing/gpu_limits.h"
#include "training/config.pb.h"
#include "training/gpu/large_step.h"

namespace strata::gpu {
namespace {

constexpr int64_t kSequences = 8, kSeqLen = 2048;
constexpr int kWarm = 3, kSteps = 8;
constexpr double kDatasheetFlops = 989e12;

using Clock = std::chrono::steady_clock;

double MillisecondsSince(Clock::time_point start) {
  return 1e3 * std::chrono::duration<double>(Clock::now() - start).count();
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

TrainConfig Config(TrainConfig::StatePrecision precision,
                   int64_t micro_batches) {
  TrainConfig train;
  train.set_seq_len(kSeqLen);
  train.set_batch_size(kSequences / micro_batches);
  train.set_accumulation(micro_batches);
  train.set_learning_rate(1e-4);
  train.set_beta1(0.9);
  train.set_beta2(0.999);
  train.set_adam_eps(1e-8);
  train.set_weight_decay(0.01);
  train.set_max_grad_norm(1);
  train.set_state_precision(precision);
  return train;
}

void PrintProfile(const char* what, Program& program) {
  double sum = 0;
  for (const Program::OpTime& op : program.Profile()) sum += op.seconds;
  std::printf("%s, operator by operator, %.1f ms:\n", what, 1e3 * sum);
  for (const Program::OpTime& op : program.Profile()) {
    if (op.seconds < 0.002 * sum) continue;
    std::printf("  %-22s %5d %9.2f ms %5.1f %%\n", op.op.c_str(),
                static_cast<int>(op.runs), 1e3 * op.seconds,
                100 * op.seconds / sum);
  }
}

void Profile(LargeStep& step) {
  step.gradient_program().EnableProfile();
  step.update_program().EnableProfile();
  CHECK(step.Gradients().ok());
  CHECK(step.Update().ok());
  PrintProfile("gradients of a step", step.gradient_program());
  PrintProfile("update", step.update_program());
}

absl::Status RunSteps(LargeStep& step, int64_t micro_batches) {
  std::vector<double> all, gradients, update;
  const absl::StatusOr<EnergyMeter> meter =
      EnergyMeter::Open(step.backend().options().device);
  double joules = 0, first_loss = 0;
  for (int i = 0; i < kWarm + kSteps; ++i) {
    if (i == kWarm && meter.ok()) joules = meter->Joules();
    const Clock::time_point start = Clock::now();
    if (absl::Status s = step.Gradients(); !s.ok()) return s;
    const double half = MillisecondsSince(start);
    if (absl::Status s = step.Update(); !s.ok()) return s;
    const double whole = MillisecondsSince(start);
    if (i == 0) first_loss = step.loss();
    if (i < kWarm) continue;
    all.push_back(whole);
    gradients.push_back(half);
    update.push_back(whole - half);
  }
  if (meter.ok()) joules = meter->Joules() - joules;
  const double ms = Median(all), update_ms = Median(update);
  const auto tokens = static_cast<double>(step.tokens());
  const double flops = step.Flops() / (1e-3 * ms);
  std::printf(
      "  %.0f tokens in %d micro-batches: %.1f ms (gradients %.1f, update "
      "%.1f), %.0f tokens/s, %.0f TFLOP/s, MFU %.3f, of cuBLAS %.3f\n",
      tokens, static_cast<int>(micro_batches), ms, Median(gradients), update_ms,
      1e3 * tokens / ms, 1e-12 * flops, flops / kDatasheetFlops,
      flops / BlasBf16Peak());
  std::printf("  update: %.1f GB, %.0f GB/s, %.2f of a copy\n",
              1e-9 * step.UpdateBytes(), 1e-6 * step.UpdateBytes() / update_ms,
              1e3 * step.UpdateBytes() / update_ms / CopyBandwidth());
  std::printf("  loss %.4f, after %d steps %.4f; %.0f mJ a token\n", first_loss,
              kWarm + kSteps - 1, step.loss(),
              meter.ok() ? 1e3 * joules / (tokens * kSteps) : -1.);
  return absl::OkStatus();
}

void Run(const ModelConfig& model, TrainConfig::StatePrecision precision) {
  const std::string& name = TrainConfig::StatePrecision_Name(precision);
  const char* const only = std::getenv("STRATA_STATE");
  if (only != nullptr && name != only) return;
  const char* const first = std::getenv("STRATA_MICRO_BATCHES");
  for (int64_t micro = first != nullptr ? std::atoi(first) : 1;
       micro <= kSequences; micro *= 2) {
    std::printf("%s state:\n", name.c_str());
    auto step = LargeStep::Create(model, Config(precision, micro));
    absl::Status status = step.status();
    if (status.ok()) {
      std::printf(
          "  %.2f B parameters, state %.1f GB, activations %.1f GB (%s)\n",
          1e-9 * static_cast<double>((*step)->num_parameters()),
          1e-9 * static_cast<double>((*step)->state_bytes()),
          1e-9 * static_cast<double>((*step)->activation_bytes()),
          (*step)->gradient_program().plan().ToString().c_str());
      status = RunSteps(**step, micro);
    }
    std::fflush(stdout);
    if (status.ok()) {
      if (std::getenv("STRATA_PROFILE") != nullptr) Profile(**step);
      std::fflush(stdout);
      return;
    }
    std::printf("  %d micro-batches: %s\n", static_cast<int>(micro),
                status.ToString().c_str());
  }
}

}  // namespace
}  // namespace strata::gpu

int main() {
  using strata::TrainConfig;
  strata::ModelConfig model;
  CHECK(strata::ReadPreset(strata::Moe7bText(), "model", "moe-7b", model).ok());
  std::printf("copy %.0f GB/s, cuBLAS BF16 %.0f TFLOP/s\n",
              1e-9 * strata::gpu::CopyBandwidth(),
              1e-12 * strata::gpu::BlasBf16Peak());
  strata::gpu::Run(model, TrainConfig::BF16);
  strata::gpu::Run(model, TrainConfig::FP32_HALVES);
  strata::gpu::Run(model, TrainConfig::FP32);
}
