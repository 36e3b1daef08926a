// The recorder: writes a routing trace (docs/routing_trace.md).
//
//   ASSIGN_OR_RETURN(auto recorder,
//                    RoutingRecorder::Create(path, header, kRefuse));
//   for (...) RETURN_IF_ERROR(recorder.Append(record));
//   RETURN_IF_ERROR(recorder.Close());
//
// Whatever happens in between, the file is a trace as far as it goes: the
// header is written at once, records in whole frames. Only Close() writes the
// end mark, without which a reader says that the recording was cut short.

#ifndef CORE_TRACE_ROUTING_RECORDER_H_
#define CORE_TRACE_ROUTING_RECORDER_H_

#include <cstdint>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/base/files.h"
#include "core/trace/gzip.h"
#include "core/trace/routing_trace.pb.h"

namespace strata {

class RoutingRecorder {
 public:
  // Begins the file at `path`. The header's format version is set here.
  //
  // Returns INVALID_ARGUMENT if the header is not one that RoutingLayout takes,
  // ALREADY_EXISTS if the file exists and is not to be overwritten, or the
  // system's error.
  static absl::StatusOr<RoutingRecorder> Create(
      const std::string& path, const RoutingTraceHeader& header,
      bool overwrite);

  // Writes what is pending, without the end mark.
  ~RoutingRecorder();
  RoutingRecorder(RoutingRecorder&& other) noexcept;
  RoutingRecorder& operator=(RoutingRecorder&&) = delete;

  // Adds a record, which must fit the header; compresses and writes it with
  // others once there are enough of them.
  //
  // Returns INVALID_ARGUMENT if the record is larger than an entry may be, or
  // RESOURCE_EXHAUSTED if the disk is full. After an error, only that error.
  absl::Status Append(const RoutingRecord& record);

  // Writes what is pending, so that a kill no longer loses it.
  absl::Status Flush();

  // Writes the end mark and flushes to the disk. At most once.
  absl::Status Close();

  int64_t num_records() const { return num_records_; }
  int64_t num_bytes() const { return file_.num_bytes(); }  // Of the file.

 private:
  explicit RoutingRecorder(OutputFile file) : file_(std::move(file)) {}

  absl::Status AddEntry(const RoutingTraceBody& body, int64_t max_bytes);
  absl::Status WriteFrame();

  OutputFile file_;
  GzipCompressor gzip_;
  std::string body_;   // The latest entry's.
  std::string frame_;  // Entries not yet written.
  int64_t num_pending_ = 0;
  int64_t num_records_ = 0;
  uint32_t crc32_ = 0;  // Of all bodies so far.
  bool open_ = true;
  absl::Status status_;
};

}  // namespace strata

#endif  // CORE_TRACE_ROUTING_RECORDER_H_
