// The trainer's validations.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/base/status_macros.h"
#include "core/parallel/communicator.h"
#include "core/parallel/mesh.h"
#include "core/runtime/program.h"
#include "core/tensor/dtype.h"
#include "core/tensor/tensor.h"
#include "core/trace/routing_replay.h"
#include "core/trace/routing_trace.pb.h"
#include "training/data/sampler.h"
#include "training/expert_meter.h"
#include "training/pipeline/stage_evaluation.h"
#include "training/pipeline/stage_runner.h"
#include "training/program_inputs.h"
#include "training/routing_recording.h"
#include "training/stage_routers.h"
#include "training/step_graph.h"
#include "training/trainer.h"

namespace strata {
namespace {

using Clock = std::chrono::steady_clock;

double SumOf(const TensorView& values) {
  double sum = 0;
  if (values.dtype == DType::kF64) {
    for (const double x : values.span<double>()) sum += x;
  } else {
    for (const float x : values.span<float>()) sum += x;
  }
  return sum;
}

}  // namespace

absl::Status Trainer::BuildEvaluation() {
  // Of two ranks that hold the same stages, batches pass the first one's.
  std::vector<int> stages = stages_;
  if (Place().shape.mirrored) stages.resize(1);
  std::vector<StepGraph> steps;  // By chunk.
  for (const int stage : stages) {
    ASSIGN_OR_RETURN(StepGraph step,
                     BuildEvaluationGraph(model_, train_.batch_size(),
                                          train_.seq_len(), options_.dtype,
                                          RouteOf(RoutingTraceHeader::EVALUATE),
                                          Place().OfStage(stage, num_stages_)));
    // As in BuildGradients(): a device's own memory is short.
    if (!backend_->shares_host_memory()) step = InLessMemory(std::move(step));
    if (options_.expose_tokens) {
      ExposeTokens(step.graph, RoutersIn(step.graph, step.routers));
    }
    steps.push_back(std::move(step));
  }
  evaluation_routers_ = std::move(steps[0].routers);
  ASSIGN_OR_RETURN(evaluation_,
                   StageEvaluation::Create(
                       std::move(steps),
                       pipeline_ != nullptr ? &pipeline_->links() : nullptr,
                       Place().shape.pp, *backend_, *state_));
  return absl::OkStatus();
}

// The ranks of a stage share the batches out. Where they are no multiple, some
// ranks run one again that does not count: rows of others go to their experts.
absl::Status Trainer::ValidateDomain(const ValidationWindows& windows, int d,
                                     RoutingRecording* recording,
                                     int64_t& num_batches, ExpertMeter& meter,
                                     DomainMetrics& domain) {
  RoutingReplay* const replay =
      Replays(RoutingTraceHeader::EVALUATE) ? replay_.get() : nullptr;
  const Mesh* const mesh = options_.mesh;
  const int64_t ranks = mesh != nullptr ? mesh->batch().size() : 1;
  const int64_t rank = mesh != nullptr ? mesh->batch().rank() : 0;
  const int64_t before = num_batches;
  const int64_t size = train_.batch_size();
  const int64_t batches = (windows.num_windows(d) + size - 1) / size;
  const auto filled = [&](int64_t batch) {
    return std::min(size, windows.num_windows(d) - batch * size);
  };
  const auto describe = [&](int64_t batch, auto& trace) {
    trace.Begin(before + batch + 1, /*micro_batch=*/0);
    for (int64_t s = 0; s < filled(batch); ++s) {
      trace.AddSequence(train_.seq_len(), d);
    }
  };
  const auto counts = [&](int64_t i) { return i * ranks + rank < batches; };
  const auto batch_of = [&](int64_t i) {
    return counts(i) ? i * ranks + rank : 0;
  };
  const auto fill = [&](int64_t i, Program& program) {
    const auto input = [&](absl::string_view name) {
      return program.HasInput(name) ? program.Input(name).span<int32_t>()
                                    : absl::MakeSpan(ignored_ids_);
    };
    const int64_t n =
        windows.Fill(d, batch_of(i) * size, input("ids"), input("target"));
    // Rows without text are no tokens: they never reach a gate.
    FillLayout(program, n, train_.seq_len());
    if (replay == nullptr) return absl::OkStatus();
    describe(batch_of(i), *replay);
    return replay->Feed(program);
  };
  const auto look = [&](int64_t i, int chunk, const Program& program) {
    if (!counts(i)) return absl::OkStatus();
    const int64_t batch = batch_of(i);
    if (IsLastStage(chunk)) {
      domain.nll += SumOf(program.Output("nll"));
      for (const uint8_t hit : program.Output("hit").span<uint8_t>()) {
        domain.accuracy += hit;
      }
    }
    meter.Add(program,
              IsLastStage(chunk) ? filled(batch) * train_.seq_len() : 0);
    if (recording == nullptr) return absl::OkStatus();
    describe(batch, *recording);
    return recording->Finish(program, chunk);
  };
  RETURN_IF_ERROR(evaluation_->Run((batches + ranks - 1) / ranks, fill, look));
  for (int64_t batch = 0; batch < batches; ++batch) {
    domain.tokens += filled(batch) * train_.seq_len();
    domain.bytes += windows.NumTextBytes(d, batch * size, filled(batch));
  }
  num_batches += batches;
  if (mesh == nullptr) return absl::OkStatus();
  double sums[] = {domain.nll, domain.accuracy};  // Of the last stage's ranks.
  RETURN_IF_ERROR(
      mesh->world().AllReduce(PayloadOf(absl::MakeSpan(sums)), ReduceOp::kSum));
  domain.nll = sums[0];
  domain.accuracy = sums[1];
  return absl::OkStatus();
}

absl::StatusOr<ValidationMetrics> Trainer::Validate(
    RoutingRecording* recording) {
  const Clock::time_point start = Clock::now();
  if (Replays(RoutingTraceHeader::EVALUATE)) {
    RETURN_IF_ERROR(replay_->Rewind());
  }
  ASSIGN_OR_RETURN(const ValidationWindows windows,
                   ValidationWindows::Create(corpus_, train_.seq_len(),
                                             train_.validation_tokens()));
  ValidationMetrics metrics;
  metrics.step = step_;
  ExpertMeter meter(model_, routers_);
  int64_t num_batches = 0;
  double nats_per_byte = 0;  // Mean over domains.
  ignored_ids_.resize(train_.batch_size() * train_.seq_len());
  for (int d = 0; d < windows.num_domains(); ++d) {
    DomainMetrics domain;
    domain.name = corpus_->domains[d].name;
    RETURN_IF_ERROR(
        ValidateDomain(windows, d, recording, num_batches, meter, domain));
    domain.accuracy /= static_cast<double>(domain.tokens);
    domain.nll /= static_cast<double>(domain.tokens);
    // Of bytes the ratio is 1, and so exact.
    const double domain_nats_per_byte =
        domain.nll * (static_cast<double>(domain.tokens) /
                      static_cast<double>(domain.bytes));
    domain.bits_per_byte = domain_nats_per_byte / std::log(2.0);
    metrics.accuracy += domain.accuracy / windows.num_domains();
    metrics.nll += domain.nll / windows.num_domains();
    nats_per_byte += domain_nats_per_byte / windows.num_domains();
    metrics.domains.push_back(std::move(domain));
  }
  metrics.bits_per_byte = nats_per_byte / std::log(2.0);
  if (options_.mesh != nullptr) {
    RETURN_IF_ERROR(meter.SumOverRanks(options_.mesh->world()));
  }
  if (recording != nullptr) RETURN_IF_ERROR(recording->Gather());
  metrics.experts = meter.Use();
  for (size_t i = 0; i < meter.routers().size(); ++i) {
    const RouterValues& router = meter.routers()[i];
    metrics.loads.push_back(
        {router.layer, router.tier, meter.load(static_cast<int>(i))});
  }
  metrics.seconds = std::chrono::duration<double>(Clock::now() - start).count();
  return metrics;
}

}  // namespace strata
