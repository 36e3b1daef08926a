#include "core/trace/routing_reader.h"

#include <zlib.h>

#include <cstdint>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "core/base/status_macros.h"
#include "core/trace/check_record.h"
#include "core/trace/gzip.h"
#include "core/trace/routing_layout.h"
#include "core/trace/routing_trace.pb.h"

namespace strata {
namespace {

// Of the length before an entry: a varint of 32 bits.
constexpr int kMaxLengthBytes = 5;

}  // namespace

absl::StatusOr<RoutingReader> RoutingReader::Open(const std::string& path) {
  ASSIGN_OR_RETURN(GzipReader gzip, GzipReader::Open(path));
  RoutingReader reader(path, std::move(gzip));
  RETURN_IF_ERROR(reader.ReadHeader());
  return reader;
}

absl::Status RoutingReader::ReadHeader() {
  const absl::StatusOr<bool> has_byte = Has(1);
  if (absl::IsDataLoss(has_byte.status()) || (has_byte.ok() && !*has_byte)) {
    return absl::InvalidArgumentError(absl::StrCat(
        path_, " is no routing trace (",
        has_byte.ok() ? "it is empty" : has_byte.status().message(),
        "); want a file of --record-routing"));
  }
  RETURN_IF_ERROR(has_byte.status());
  RoutingTraceBody body;
  const absl::Status status = ReadBody(kMaxTraceHeaderBytes, body);
  if (!status.ok() || !body.has_header()) {
    return absl::DataLossError(absl::StrCat(
        path_, " is no routing trace, or its header is damaged: ",
        status.ok() ? "it begins with no header" : status.message()));
  }
  header_.Swap(body.mutable_header());
  absl::StatusOr<RoutingLayout> layout = RoutingLayout::Create(header_);
  if (!layout.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat(path_, ": ", layout.status().message()));
  }
  layout_ = *std::move(layout);
  return absl::OkStatus();
}

absl::StatusOr<bool> RoutingReader::Next(RoutingRecord& record) {
  RETURN_IF_ERROR(status_);
  if (done_) return false;
  const absl::StatusOr<bool> more = ReadNext(record);
  if (!more.ok()) {
    status_ = Damage(more.status());
    return status_;
  }
  done_ = !*more;
  num_records_ += *more;
  return *more;
}

absl::StatusOr<bool> RoutingReader::ReadNext(RoutingRecord& record) {
  ASSIGN_OR_RETURN(const bool has_byte, Has(1));
  if (!has_byte) {
    return absl::DataLossError(
        "the file ends without its end mark: the recording was cut short, or "
        "the file was");
  }
  RoutingTraceBody body;
  RETURN_IF_ERROR(ReadBody(kMaxTraceEntryBytes, body));
  if (body.has_record()) {
    RETURN_IF_ERROR(CheckRecord(layout_, body.record()));
    record.Swap(body.mutable_record());
    return true;
  }
  if (!body.has_end()) {
    return absl::DataLossError("an entry is neither a record nor the end mark");
  }
  if (static_cast<int64_t>(body.end().num_records()) != num_records_) {
    return absl::DataLossError(absl::StrCat(
        "the end mark counts ", body.end().num_records(), " records"));
  }
  ASSIGN_OR_RETURN(const bool has_more, Has(1));
  if (has_more) return absl::DataLossError("something follows the end mark");
  return false;
}

// The next entry, checked.
absl::Status RoutingReader::ReadBody(int64_t max_bytes,
                                     RoutingTraceBody& body) {
  uint64_t length = 0;
  for (int i = 0;; ++i) {
    if (i == kMaxLengthBytes) {
      return absl::DataLossError("an entry's length is no number");
    }
    ASSIGN_OR_RETURN(const bool has_byte, Has(1));
    if (!has_byte) return absl::DataLossError("the file ends within an entry");
    const auto byte = static_cast<uint8_t>(Rest()[0]);
    ++position_;
    length |= uint64_t{byte & 0x7fu} << (7 * i);
    if (byte < 0x80) break;
  }
  if (length > static_cast<uint64_t>(max_bytes)) {
    return absl::DataLossError(absl::StrCat(
        "an entry claims ", length, " bytes; want at most ", max_bytes));
  }
  ASSIGN_OR_RETURN(const bool has_entry, Has(static_cast<int64_t>(length)));
  if (!has_entry) return absl::DataLossError("the file ends within an entry");
  RoutingTraceEntry entry;
  if (!entry.ParseFromArray(Rest().data(), static_cast<int>(length))) {
    return absl::DataLossError("an entry is no message");
  }
  position_ += static_cast<int64_t>(length);
  const auto crc32 = static_cast<uint32_t>(
      crc32_z(crc32_, reinterpret_cast<const Bytef*>(entry.body().data()),
              entry.body().size()));
  if (crc32 != entry.crc32()) {
    return absl::DataLossError(absl::StrFormat(
        "an entry's checksum is %08x, that of its bytes and those before %08x",
        entry.crc32(), crc32));
  }
  crc32_ = crc32;
  if (!body.ParseFromString(entry.body())) {
    return absl::DataLossError("an entry's body is no message");
  }
  return absl::OkStatus();
}

// Whether there are `num_bytes` more; reads them into the buffer, which grows
// only as bytes arrive.
absl::StatusOr<bool> RoutingReader::Has(int64_t num_bytes) {
  while (static_cast<int64_t>(Rest().size()) < num_bytes) {
    buffer_.erase(0, position_);
    position_ = 0;
    ASSIGN_OR_RETURN(const int64_t got, gzip_.Read(&buffer_));
    if (got == 0) return false;
  }
  return true;
}

absl::string_view RoutingReader::Rest() const {
  return absl::string_view(buffer_).substr(position_);
}

absl::Status RoutingReader::Damage(const absl::Status& cause) const {
  if (!absl::IsDataLoss(cause)) return cause;
  return absl::DataLossError(absl::StrCat(
      path_, " is damaged after record ", num_records_, ", at byte ",
      gzip_.byte_offset(), " (in the frame from byte ", gzip_.frame_offset(),
      " on): ", cause.message()));
}

}  // namespace strata
