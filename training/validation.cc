// The trainer's validations.

#include <chrono>
#include <cmath>
#include <cstdint>
#include <utility>

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
#include "training/pipeline/stage_runner.h"
#include "training/program_inputs.h"
#include "training/routing_recording.h"
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
  ASSIGN_OR_RETURN(
      StepGraph evaluation,
      BuildEvaluationGraph(model_, train_.batch_size(), train_.seq_len(),
                           options_.dtype,
                           RouteOf(RoutingTraceHeader::EVALUATE), Place()));
  evaluation_routers_ = std::move(evaluation.routers);
  evaluation_received_ = std::move(evaluation.received);
  evaluation_sent_ = std::move(evaluation.sent);
  if (options_.expose_tokens) {
    ExposeTokens(evaluation.graph, evaluation_routers_);
  }
  ASSIGN_OR_RETURN(evaluation_, Program::Compile(std::move(evaluation.graph),
                                                 *backend_, *state_));
  ExpectValues(evaluation_received_, *evaluation_);
  FillLayout(*evaluation_, train_.batch_size(), train_.seq_len());
  return absl::OkStatus();
}

// Every rank of a stage validates all there is, so that rows find their experts
// and values their stages.
absl::Status Trainer::RunEvaluation() {
  if (Place().shape.pp == 1) return evaluation_->Run();
  Communicator& pp = options_.mesh->pp();
  RETURN_IF_ERROR(
      ReceiveValues(evaluation_received_, *backend_, pp, *evaluation_));
  RETURN_IF_ERROR(evaluation_->Run());
  return SendValues(evaluation_sent_, *evaluation_, *backend_, pp);
}

absl::StatusOr<ValidationMetrics> Trainer::Validate(
    RoutingRecording* recording) {
  const Clock::time_point start = Clock::now();
  RoutingReplay* const replay =
      Replays(RoutingTraceHeader::EVALUATE) ? replay_.get() : nullptr;
  if (replay != nullptr) RETURN_IF_ERROR(replay->Rewind());
  ASSIGN_OR_RETURN(const ValidationWindows windows,
                   ValidationWindows::Create(corpus_, train_.seq_len(),
                                             train_.validation_tokens()));
  ValidationMetrics metrics;
  metrics.step = step_;
  ExpertMeter meter(model_, routers_);
  int64_t num_batches = 0;
  double nats_per_byte = 0;  // Mean over domains.
  ignored_ids_.resize(train_.batch_size() * train_.seq_len());
  const auto input = [&](absl::string_view name) {
    return evaluation_->HasInput(name)
               ? evaluation_->Input(name).span<int32_t>()
               : absl::MakeSpan(ignored_ids_);
  };
  for (int d = 0; d < windows.num_domains(); ++d) {
    DomainMetrics domain;
    domain.name = corpus_->domains[d].name;
    for (int64_t w = 0; w < windows.num_windows(d);) {
      const int64_t filled = windows.Fill(d, w, input("ids"), input("target"));
      ++num_batches;
      const auto describe = [&](auto& trace) {
        trace.Begin(num_batches, /*micro_batch=*/0);
        for (int64_t s = 0; s < filled; ++s) {
          trace.AddSequence(train_.seq_len(), d);
        }
      };
      // Rows without text are no tokens: they never reach a gate.
      FillLayout(*evaluation_, filled, train_.seq_len());
      if (replay != nullptr) {
        describe(*replay);
        RETURN_IF_ERROR(replay->Feed(*evaluation_));
      }
      RETURN_IF_ERROR(RunEvaluation());
      if (Place().is_last_stage()) {
        domain.nll += SumOf(evaluation_->Output("nll"));
        for (const uint8_t hit : evaluation_->Output("hit").span<uint8_t>()) {
          domain.accuracy += hit;
        }
      }
      domain.tokens += filled * train_.seq_len();
      domain.bytes += windows.NumTextBytes(d, w, filled);
      meter.Add(*evaluation_,
                Place().is_last_stage() ? filled * train_.seq_len() : 0);
      if (recording != nullptr) {
        describe(*recording);
        RETURN_IF_ERROR(recording->Finish(*evaluation_));
      }
      w += filled;
    }
    if (Place().shape.pp > 1) {  // What the last stage found.
      double sums[] = {domain.nll, domain.accuracy};
      RETURN_IF_ERROR(options_.mesh->pp().AllReduce(
          PayloadOf(absl::MakeSpan(sums)), ReduceOp::kSum));
      domain.nll = sums[0];
      domain.accuracy = sums[1];
    }
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
  if (Place().shape.pp > 1) {
    RETURN_IF_ERROR(meter.SumOverRanks(options_.mesh->pp()));
  }
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
