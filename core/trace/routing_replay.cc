#include "core/trace/routing_replay.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/status_macros.h"
#include "core/model/moe.h"
#include "core/runtime/program.h"
#include "core/tensor/tensor.h"
#include "core/trace/routing_layout.h"
#include "core/trace/routing_reader.h"
#include "core/trace/routing_record.h"
#include "core/trace/routing_trace.pb.h"

namespace strata {
namespace {

const char* CommandOf(RoutingTraceHeader::Source source) {
  switch (source) {
    case RoutingTraceHeader::TRAIN:
      return "strata train";
    case RoutingTraceHeader::EVALUATE:
      return "strata evaluate";
    default:
      return "an unknown command";
  }
}

absl::Status CheckOrigin(const RoutingTraceHeader& trace,
                         const RoutingTraceHeader& run) {
  if (!trace.has_tokens()) {
    return absl::InvalidArgumentError(
        "the trace has counts alone; want one recorded with --record-tokens");
  }
  if (trace.recorded_by() != run.recorded_by()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the trace was recorded by ", CommandOf(trace.recorded_by()),
        "; want one of ", CommandOf(run.recorded_by())));
  }
  if (trace.model_hash() != run.model_hash()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the trace is of another model (", trace.model_name(),
                     ", config hash ", trace.model_hash(), "); want ",
                     run.model_name(), ", ", run.model_hash()));
  }
  if (trace.data_hash() != run.data_hash()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the trace is of other data (hash ", trace.data_hash(),
                     "); want ", run.data_hash()));
  }
  if (run.recorded_by() == RoutingTraceHeader::TRAIN &&
      trace.seed() != run.seed()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the trace is of a run with seed ", trace.seed(),
                     ", which orders the data; want ", run.seed()));
  }
  return absl::OkStatus();
}

// The model's hash says the same; but it is the file's word.
absl::Status CheckGates(const RoutingLayout& layout,
                        const std::vector<RouterValues>& routers) {
  const auto error = [&](const auto&... parts) {
    return absl::InvalidArgumentError(
        absl::StrCat("the trace's ", layout.gates.size(),
                     " gates are not the model's ", routers.size(), parts...));
  };
  if (layout.gates.size() != routers.size()) return error();
  for (size_t g = 0; g < routers.size(); ++g) {
    const GateLayout& gate = layout.gates[g];
    const RouterValues& want = routers[g];
    if (gate.layer == want.layer && gate.tier == want.tier &&
        gate.num_experts == want.num_experts) {
      continue;
    }
    return error(": gate ", gate.layer, ".", gate.tier, " has ",
                 gate.num_experts, " experts; want gate ", want.layer, ".",
                 want.tier, " with ", want.num_experts);
  }
  return absl::OkStatus();
}

std::string SequencesOf(const RoutingRecord& record) {
  std::vector<std::string> parts;
  constexpr int kShown = 8;
  const int n = record.sequence_tokens_size();
  for (int s = 0; s < std::min(n, kShown); ++s) {
    std::string part = absl::StrCat(record.sequence_tokens(s));
    if (s < record.sequence_domain_size()) {
      absl::StrAppend(&part, " of domain ", record.sequence_domain(s));
    }
    parts.push_back(std::move(part));
  }
  if (n > kShown) parts.push_back("...");
  return absl::StrCat(n, " sequences (tokens: ", absl::StrJoin(parts, ", "),
                      ")");
}

std::string BatchOf(const RoutingRecord& record) {
  return absl::StrCat("step ", record.step(), ", micro-batch ",
                      record.micro_batch());
}

std::tuple<int64_t, int64_t> Place(const RoutingRecord& record) {
  return {record.step(), record.micro_batch()};
}

}  // namespace

absl::StatusOr<std::unique_ptr<RoutingReplay>> RoutingReplay::Open(
    const std::string& path, const RoutingTraceHeader& run,
    const std::vector<RouterValues>& routers) {
  ASSIGN_OR_RETURN(RoutingReader reader, RoutingReader::Open(path));
  absl::Status status = CheckOrigin(reader.header(), run);
  if (status.ok()) status = CheckGates(reader.layout(), routers);
  if (!status.ok()) {
    return absl::Status(status.code(), absl::StrCat("cannot replay ", path,
                                                    ": ", status.message()));
  }
  auto replay = std::unique_ptr<RoutingReplay>(
      new RoutingReplay(path, std::move(reader)));
  for (const RouterValues& router : routers) {
    replay->gates_.push_back(
        {router.ReplayExpertName(), router.ReplayStayName()});
  }
  return replay;
}

absl::Status RoutingReplay::Rewind() {
  ASSIGN_OR_RETURN(RoutingReader reader, RoutingReader::Open(path_));
  // A file that was exchanged meanwhile could have other gates.
  if (reader.header().SerializeAsString() !=
      reader_.header().SerializeAsString()) {
    return absl::InvalidArgumentError(
        absl::StrCat(path_, " has changed since the replay began"));
  }
  reader_ = std::move(reader);
  return absl::OkStatus();
}

void RoutingReplay::Begin(int64_t step, int64_t micro_batch) {
  batch_.set_step(step);
  batch_.set_micro_batch(micro_batch);
  batch_.clear_sequence_tokens();
  batch_.clear_sequence_domain();
}

void RoutingReplay::AddSequence(int64_t num_tokens, int domain) {
  batch_.add_sequence_tokens(num_tokens);
  batch_.add_sequence_domain(domain);
}

absl::Status RoutingReplay::Feed(Program& program) {
  RETURN_IF_ERROR(FindRecord());
  RETURN_IF_ERROR(CheckSequences());
  for (size_t g = 0; g < gates_.size(); ++g) {
    RETURN_IF_ERROR(FeedGate(g, program));
  }
  return absl::OkStatus();
}

absl::Status RoutingReplay::FindRecord() {
  do {
    ASSIGN_OR_RETURN(const bool more, reader_.Next(record_));
    if (!more) {
      return absl::OutOfRangeError(absl::StrCat(
          path_, " ends after record ", reader_.num_records(),
          ", before a record of ", BatchOf(batch_), " that the replay needs"));
    }
  } while (Place(record_) < Place(batch_));
  if (Place(record_) == Place(batch_)) return absl::OkStatus();
  return RecordError(" is of ", BatchOf(record_), "; want one of ",
                     BatchOf(batch_), ", which the trace has not");
}

absl::Status RoutingReplay::CheckSequences() const {
  const auto same = [](const auto& a, const auto& b) {
    return std::equal(a.begin(), a.end(), b.begin(), b.end());
  };
  if (same(record_.sequence_tokens(), batch_.sequence_tokens()) &&
      same(record_.sequence_domain(), batch_.sequence_domain())) {
    return absl::OkStatus();
  }
  return RecordError(" has ", SequencesOf(record_), "; the batch of ",
                     BatchOf(batch_), " has ", SequencesOf(batch_));
}

absl::Status RoutingReplay::FeedGate(int64_t g, Program& program) const {
  const RoutingLayout& layout = reader_.layout();
  const GateLayout& gate = layout.gates[g];
  const TensorView& expert = program.Input(gates_[g].expert);
  if (gate.k_max != expert.dim(1)) {
    return RecordError(" has ", gate.k_max, " choices a token at gate ",
                       gate.layer, ".", gate.tier, "; the model has ",
                       expert.dim(1));
  }
  ASSIGN_OR_RETURN(
      const TokenChoices choices,
      DecodeChoices(layout, record_, g, /*with_considered=*/false));
  // CheckSequences() bounds the first gate's tokens by the batch's, and what
  // follows here those of the next.
  std::copy(choices.expert.begin(), choices.expert.end(), expert.as<int32_t>());
  int64_t num_stay = choices.num_tokens;
  if (program.HasInput(gates_[g].stay)) {
    auto* const stay = program.Input(gates_[g].stay).as<uint8_t>();
    num_stay = 0;
    for (int64_t i = 0; i < choices.num_tokens; ++i) {
      stay[i] = choices.expert[i * gate.k_max] >= 0;
      num_stay += stay[i];
    }
  }
  if (gate.is_last_tier) return absl::OkStatus();
  const int64_t next = GateTokens(layout, record_, g + 1);
  if (next == num_stay) return absl::OkStatus();
  return RecordError(" has ", next, " tokens at gate ", gate.layer, ".",
                     gate.tier + 1, "; of the model's ", choices.num_tokens,
                     " at the gate before it, ", num_stay, " stay");
}

template <typename... Parts>
absl::Status RoutingReplay::RecordError(const Parts&... parts) const {
  return absl::InvalidArgumentError(
      absl::StrCat(path_, ": record ", reader_.num_records(), parts...));
}

}  // namespace strata
