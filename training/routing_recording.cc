#include "training/routing_recording.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/parallel/agree.h"
#include "core/parallel/communicator.h"
#include "core/parallel/mesh.h"
#include "core/runtime/program.h"
#include "core/trace/merge_records.h"
#include "core/trace/router_tap.h"
#include "core/trace/routing_layout.h"
#include "core/trace/routing_record.h"
#include "core/trace/routing_recorder.h"
#include "core/trace/routing_trace.pb.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/io/zero_copy_stream_impl_lite.h"
#include "google/protobuf/util/delimited_message_util.h"

namespace strata {
namespace {

namespace pb = google::protobuf;

// Messages of stages, as bytes, and back.
template <typename Message>
std::string Serialize(const std::vector<std::pair<int, Message>>& of_stages) {
  std::string bytes;
  pb::io::StringOutputStream output(&bytes);
  pb::io::CodedOutputStream stream(&output);
  for (const auto& [stage, message] : of_stages) {
    stream.WriteVarint32(static_cast<uint32_t>(stage));
    pb::util::SerializeDelimitedToCodedStream(message, &stream);
  }
  stream.Trim();
  return bytes;
}

// Appends to `of_stages`.
template <typename Message>
absl::Status Parse(const std::string& bytes,
                   std::vector<std::pair<int, Message>>& of_stages) {
  pb::io::ArrayInputStream input(bytes.data(), static_cast<int>(bytes.size()));
  pb::io::CodedInputStream stream(&input);
  uint32_t stage = 0;
  while (stream.ReadVarint32(&stage)) {
    auto& [number, message] = of_stages.emplace_back();
    number = static_cast<int>(stage);
    if (!pb::util::ParseDelimitedFromCodedStream(&message, &stream, nullptr)) {
      return absl::InternalError("what a rank recorded came damaged");
    }
  }
  return absl::OkStatus();
}

// Adds the gates of all stages, one stage after the other, to `header`, of
// `mine`, those of this rank's. Returns how many stages there are.
absl::StatusOr<int> AddGatesOfStages(
    const Mesh& mesh,
    const std::vector<std::pair<int, RoutingTraceHeader>>& mine,
    RoutingTraceHeader& header) {
  std::vector<std::pair<int, RoutingTraceHeader>> all;
  const int ranks_of_stage = mesh.shape().dp * mesh.shape().ep;
  for (int rank = 0; rank < mesh.world().size(); rank += ranks_of_stage) {
    ASSIGN_OR_RETURN(const std::string text,
                     TextOf(rank, Serialize(mine), mesh.world()));
    RETURN_IF_ERROR(Parse(text, all));
  }
  // Two ranks may hold the same stage.
  std::map<int, RoutingTraceHeader> by_stage;
  for (auto& [stage, gates] : all) by_stage[stage] = std::move(gates);
  for (const auto& [stage, gates] : by_stage) {
    header.mutable_gates()->MergeFrom(gates.gates());
  }
  return static_cast<int>(by_stage.size());
}

}  // namespace

absl::StatusOr<std::unique_ptr<RoutingRecording>> RoutingRecording::Start(
    const RecordOptions& options, RoutingTraceHeader header,
    std::vector<StageTap> taps, int64_t max_tokens, const Mesh* mesh) {
  if (options.num_ranks < 1 || options.num_ranks > max_tokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("--routing-ranks is ", options.num_ranks, "; want 1 to ",
                     max_tokens, ", the tokens of a batch"));
  }
  header.set_format_version(kRoutingTraceVersion);
  header.set_num_ranks(options.num_ranks);
  header.set_has_tokens(options.tokens);
  auto recording =
      std::unique_ptr<RoutingRecording>(new RoutingRecording(mesh));
  std::vector<std::pair<int, RoutingTraceHeader>> own;
  for (StageTap& tap : taps) {
    auto& [stage, gates] = own.emplace_back(tap.stage, header);
    tap.tap.AddGates(gates);
    recording->stages_.push_back({stage, std::move(tap.tap), std::nullopt});
    if (gates.gates_size() == 0) continue;
    ASSIGN_OR_RETURN(recording->stages_.back().layout,
                     RoutingLayout::Create(gates));
  }
  if (mesh == nullptr) {
    header = own[0].second;
  } else {
    ASSIGN_OR_RETURN(recording->num_stages_,
                     AddGatesOfStages(*mesh, own, header));
  }
  const absl::StatusOr<RoutingLayout> layout = RoutingLayout::Create(header);
  if (!layout.ok()) {
    return absl::Status(
        layout.status().code(),
        absl::StrCat("cannot record routing: ", layout.status().message()));
  }
  if (mesh == nullptr || mesh->world().rank() == 0) {
    ASSIGN_OR_RETURN(
        RoutingRecorder recorder,
        RoutingRecorder::Create(options.path, header, options.overwrite));
    recording->recorder_.emplace(std::move(recorder));
  }
  return recording;
}

void RoutingRecording::Begin(int64_t step, int64_t micro_batch) {
  record_.Clear();
  record_.set_step(step);
  record_.set_micro_batch(micro_batch);
}

void RoutingRecording::AddSequence(int64_t num_tokens, int domain) {
  record_.add_sequence_tokens(num_tokens);
  record_.add_sequence_domain(domain);
}

absl::Status RoutingRecording::Finish(const Program& program, int chunk) {
  Stage& stage = stages_[chunk];
  if (stage.layout) {
    RETURN_IF_ERROR(
        EncodeChoices(*stage.layout, stage.tap.Read(program), record_));
  }
  if (mesh_ == nullptr) return recorder_->Append(record_);
  pending_.emplace_back(stage.number, record_);
  return absl::OkStatus();
}

absl::Status RoutingRecording::Gather() {
  if (mesh_ == nullptr) return absl::OkStatus();
  const std::string mine = Serialize(pending_);
  pending_.clear();
  Communicator& world = mesh_->world();
  std::vector<StageRecord> records;
  for (int rank = 0; rank < world.size(); ++rank) {
    ASSIGN_OR_RETURN(const std::string bytes, TextOf(rank, mine, world));
    if (recorder_) RETURN_IF_ERROR(Parse(bytes, records));
  }
  return recorder_ ? Write(std::move(records)) : absl::OkStatus();
}

absl::Status RoutingRecording::Write(std::vector<StageRecord> records) {
  const auto place = [](const StageRecord& record) {
    return std::make_tuple(record.second.step(), record.second.micro_batch(),
                           record.first);
  };
  std::sort(records.begin(), records.end(),
            [&](const StageRecord& a, const StageRecord& b) {
              return place(a) < place(b);
            });
  for (size_t begin = 0; begin < records.size(); begin += num_stages_) {
    const size_t left = records.size() - begin;
    RoutingRecord& record = records[begin].second;
    for (int stage = 0; stage < num_stages_; ++stage) {
      if (static_cast<size_t>(stage) >= left ||
          records[begin + stage].first != stage) {
        return absl::InternalError(absl::StrCat(
            "no rank recorded stage ", stage, " of step ", record.step(),
            ", micro-batch ", record.micro_batch()));
      }
      if (stage == 0) continue;
      RETURN_IF_ERROR(MergeStage(records[begin + stage].second, record));
    }
    RETURN_IF_ERROR(recorder_->Append(record));
  }
  return absl::OkStatus();
}

}  // namespace strata
