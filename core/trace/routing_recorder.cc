#include "core/trace/routing_recorder.h"

#include <zlib.h>

#include <cstdint>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/base/check.h"
#include "core/base/files.h"
#include "core/base/status_macros.h"
#include "core/trace/routing_layout.h"
#include "core/trace/routing_trace.pb.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/io/zero_copy_stream_impl_lite.h"

namespace strata {
namespace {

// Enough for gzip's window to be warm; few enough that a kill loses little.
constexpr int64_t kFrameBytes = 256 << 10;
constexpr int64_t kFrameRecords = 64;

}  // namespace

absl::StatusOr<RoutingRecorder> RoutingRecorder::Create(
    const std::string& path, const RoutingTraceHeader& header, bool overwrite) {
  RoutingTraceBody body;
  *body.mutable_header() = header;
  body.mutable_header()->set_format_version(kRoutingTraceVersion);
  RETURN_IF_ERROR(RoutingLayout::Create(body.header()).status());

  absl::StatusOr<OutputFile> file =
      overwrite ? OutputFile::Create(path) : OutputFile::CreateNew(path);
  if (absl::IsAlreadyExists(file.status())) {
    return absl::AlreadyExistsError(
        absl::StrCat(path,
                     " exists already; want --overwrite-routing to "
                     "replace it, or another file"));
  }
  RETURN_IF_ERROR(file.status());
  RoutingRecorder recorder(*std::move(file));
  RETURN_IF_ERROR(recorder.AddEntry(body, kMaxTraceHeaderBytes));
  RETURN_IF_ERROR(recorder.WriteFrame());
  return recorder;
}

RoutingRecorder::RoutingRecorder(RoutingRecorder&& other) noexcept
    : file_(std::move(other.file_)),
      gzip_(std::move(other.gzip_)),
      body_(std::move(other.body_)),
      frame_(std::move(other.frame_)),
      num_pending_(other.num_pending_),
      num_records_(other.num_records_),
      crc32_(other.crc32_),
      open_(std::exchange(other.open_, false)),
      status_(std::move(other.status_)) {}

RoutingRecorder::~RoutingRecorder() {
  // Whoever wants to know of an error calls Close().
  if (open_) Flush().IgnoreError();
}

absl::Status RoutingRecorder::Append(const RoutingRecord& record) {
  RETURN_IF_ERROR(status_);
  CHECK(open_) << "the trace is closed";
  RoutingTraceBody body;
  // Lent, not copied: a record with tokens has megabytes.
  body.unsafe_arena_set_allocated_record(const_cast<RoutingRecord*>(&record));
  status_ = AddEntry(body, kMaxTraceEntryBytes);
  body.unsafe_arena_release_record();
  RETURN_IF_ERROR(status_);
  ++num_records_;
  ++num_pending_;
  if (num_pending_ >= kFrameRecords ||
      static_cast<int64_t>(frame_.size()) >= kFrameBytes) {
    return Flush();
  }
  return absl::OkStatus();
}

absl::Status RoutingRecorder::Flush() {
  RETURN_IF_ERROR(status_);
  if (frame_.empty()) return absl::OkStatus();
  status_ = WriteFrame();
  return status_;
}

absl::Status RoutingRecorder::Close() {
  CHECK(open_) << "the trace is closed";
  open_ = false;
  RETURN_IF_ERROR(status_);
  RoutingTraceBody body;
  body.mutable_end()->set_num_records(num_records_);
  RETURN_IF_ERROR(AddEntry(body, kMaxTraceEntryBytes));
  RETURN_IF_ERROR(WriteFrame());
  return file_.Close();
}

absl::Status RoutingRecorder::AddEntry(const RoutingTraceBody& body,
                                       int64_t max_bytes) {
  const int64_t body_bytes = body.ByteSizeLong();
  // What surrounds the body takes some 15 bytes.
  constexpr int64_t kSurroundingBytes = 64;
  if (body_bytes > max_bytes - kSurroundingBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("an entry of the routing trace has ", body_bytes,
                     " bytes; want at most ", max_bytes - kSurroundingBytes));
  }
  body_.clear();
  CHECK(body.AppendToString(&body_));
  crc32_ = crc32_z(crc32_, reinterpret_cast<const Bytef*>(body_.data()),
                   body_.size());

  RoutingTraceEntry entry;
  entry.set_crc32(crc32_);
  entry.mutable_body()->swap(body_);
  {
    google::protobuf::io::StringOutputStream out(&frame_);
    google::protobuf::io::CodedOutputStream coded(&out);
    coded.WriteVarint32(static_cast<uint32_t>(entry.ByteSizeLong()));
    CHECK(entry.SerializeToCodedStream(&coded));
  }
  entry.mutable_body()->swap(body_);  // Its memory, for the next one.
  return absl::OkStatus();
}

absl::Status RoutingRecorder::WriteFrame() {
  RETURN_IF_ERROR(file_.Append(gzip_.Compress(frame_)));
  frame_.clear();
  num_pending_ = 0;
  return absl::OkStatus();
}

}  // namespace strata
