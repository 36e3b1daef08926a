// The reader of routing traces (docs/routing_trace.md): from front to back, one
// record in memory, up to the end or to the first damage.
//
//   ASSIGN_OR_RETURN(RoutingReader reader, RoutingReader::Open(path));
//   RoutingRecord record;
//   while (true) {
//     ASSIGN_OR_RETURN(const bool more, reader.Next(record));
//     if (!more) break;
//     ...
//   }
//
// A record that is returned is what was recorded: its checksum covers it and
// all before it, and its numbers have been held against the header.

#ifndef CORE_TRACE_ROUTING_READER_H_
#define CORE_TRACE_ROUTING_READER_H_

#include <cstdint>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/trace/gzip.h"
#include "core/trace/routing_layout.h"
#include "core/trace/routing_trace.pb.h"

namespace strata {

class RoutingReader {
 public:
  // Reads the header.
  //
  // Returns the system's error if the file cannot be read, INVALID_ARGUMENT if
  // it is no trace or one of another version, DATA_LOSS if its header is
  // damaged.
  static absl::StatusOr<RoutingReader> Open(const std::string& path);

  const RoutingTraceHeader& header() const { return header_; }
  const RoutingLayout& layout() const { return layout_; }

  // The next record; false at the end mark.
  //
  // Returns DATA_LOSS if the file is damaged or ends without its end mark: the
  // message says after which record, at which byte, and what was wrong. The
  // same again from then on.
  absl::StatusOr<bool> Next(RoutingRecord& record);

  int64_t num_records() const { return num_records_; }  // Returned so far.

 private:
  RoutingReader(std::string path, GzipReader gzip)
      : path_(std::move(path)), gzip_(std::move(gzip)) {}

  absl::Status ReadHeader();
  absl::StatusOr<bool> ReadNext(RoutingRecord& record);
  absl::Status ReadBody(int64_t max_bytes, RoutingTraceBody& body);
  absl::StatusOr<bool> Has(int64_t num_bytes);
  absl::string_view Rest() const;
  absl::Status Damage(const absl::Status& cause) const;

  std::string path_;
  GzipReader gzip_;
  std::string buffer_;  // Decompressed; the first position_ bytes are done.
  int64_t position_ = 0;
  RoutingTraceHeader header_;
  RoutingLayout layout_;
  int64_t num_records_ = 0;
  uint32_t crc32_ = 0;
  bool done_ = false;
  absl::Status status_;
};

}  // namespace strata

#endif  // CORE_TRACE_ROUTING_READER_H_
