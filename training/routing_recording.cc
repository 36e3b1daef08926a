#include "training/routing_recording.h"

#include <cstdint>
#include <memory>
#include <sstream>
#include <string>
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
#include "google/protobuf/io/zero_copy_stream_impl_lite.h"
#include "google/protobuf/util/delimited_message_util.h"

namespace strata {
namespace {

std::string Serialize(const std::vector<RoutingRecord>& records) {
  std::ostringstream bytes;
  for (const RoutingRecord& record : records) {
    google::protobuf::util::SerializeDelimitedToOstream(record, &bytes);
  }
  return bytes.str();
}

absl::StatusOr<std::vector<RoutingRecord>> Parse(const std::string& bytes) {
  google::protobuf::io::ArrayInputStream stream(bytes.data(),
                                                static_cast<int>(bytes.size()));
  std::vector<RoutingRecord> records;
  while (true) {
    bool is_end = false;
    RoutingRecord record;
    if (google::protobuf::util::ParseDelimitedFromZeroCopyStream(
            &record, &stream, &is_end)) {
      records.push_back(std::move(record));
    } else if (is_end) {
      return records;
    } else {
      return absl::InternalError("a rank's records came damaged");
    }
  }
}

// Adds the gates of the first ranks of all stages, one stage after the other.
absl::Status AddGatesOfStages(const Mesh& mesh, RouterTap& tap,
                              RoutingTraceHeader& header) {
  tap.AddGates(header);
  RoutingTraceHeader mine;
  tap.AddGates(mine);
  header.clear_gates();
  const int ranks_of_stage = mesh.shape().dp * mesh.shape().ep;
  for (int stage = 0; stage < mesh.shape().pp; ++stage) {
    ASSIGN_OR_RETURN(
        const std::string text,
        TextOf(stage * ranks_of_stage, mine.SerializeAsString(), mesh.world()));
    RoutingTraceHeader theirs;
    if (!theirs.ParseFromString(text)) {
      return absl::InternalError("a stage's gates came damaged");
    }
    header.mutable_gates()->MergeFrom(theirs.gates());
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<RoutingRecording>> RoutingRecording::Start(
    const RecordOptions& options, RoutingTraceHeader header, RouterTap tap,
    int64_t max_tokens, const Mesh* mesh) {
  if (options.num_ranks < 1 || options.num_ranks > max_tokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("--routing-ranks is ", options.num_ranks, "; want 1 to ",
                     max_tokens, ", the tokens of a batch"));
  }
  header.set_format_version(kRoutingTraceVersion);
  header.set_num_ranks(options.num_ranks);
  RoutingTraceHeader own = header;
  tap.AddGates(own);
  if (mesh == nullptr) {
    header = own;
  } else {
    RETURN_IF_ERROR(AddGatesOfStages(*mesh, tap, header));
  }
  const absl::StatusOr<RoutingLayout> layout = RoutingLayout::Create(header);
  if (!layout.ok()) {
    return absl::Status(
        layout.status().code(),
        absl::StrCat("cannot record routing: ", layout.status().message()));
  }
  auto recording = std::unique_ptr<RoutingRecording>(
      new RoutingRecording(std::move(tap), mesh));
  if (own.gates_size() > 0) {
    ASSIGN_OR_RETURN(recording->layout_, RoutingLayout::Create(own));
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
  record_.set_step(step);
  record_.set_micro_batch(micro_batch);
  record_.clear_sequence_tokens();
  record_.clear_sequence_domain();
}

void RoutingRecording::AddSequence(int64_t num_tokens, int domain) {
  record_.add_sequence_tokens(num_tokens);
  record_.add_sequence_domain(domain);
}

absl::Status RoutingRecording::Finish(const Program& program) {
  if (layout_) {
    RETURN_IF_ERROR(EncodeChoices(*layout_, tap_.Read(program), record_));
  }
  if (mesh_ == nullptr) return recorder_->Append(record_);
  pending_.push_back(record_);
  return absl::OkStatus();
}

absl::Status RoutingRecording::Gather() {
  if (mesh_ == nullptr) return absl::OkStatus();
  const std::string mine = Serialize(pending_);
  const size_t num_records = pending_.size();
  pending_.clear();
  Communicator& world = mesh_->world();
  std::vector<std::vector<RoutingRecord>> records;  // By rank.
  for (int rank = 0; rank < world.size(); ++rank) {
    ASSIGN_OR_RETURN(const std::string bytes, TextOf(rank, mine, world));
    if (!recorder_) continue;
    ASSIGN_OR_RETURN(records.emplace_back(), Parse(bytes));
    if (records.back().size() != num_records) {
      return absl::InternalError(
          absl::StrCat("rank ", rank, " recorded ", records.back().size(),
                       " micro-batches; want ", num_records));
    }
  }
  if (!recorder_) return absl::OkStatus();
  const int ranks_of_stage = mesh_->shape().dp * mesh_->shape().ep;
  for (int rank = 0; rank < ranks_of_stage; ++rank) {
    for (size_t m = 0; m < num_records; ++m) {
      RoutingRecord& record = records[rank][m];
      for (int stage = 1; stage < mesh_->shape().pp; ++stage) {
        RETURN_IF_ERROR(
            MergeStage(records[stage * ranks_of_stage + rank][m], record));
      }
      RETURN_IF_ERROR(recorder_->Append(record));
    }
  }
  return absl::OkStatus();
}

}  // namespace strata
