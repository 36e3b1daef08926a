#include "sim/chakra/trace_reader.h"

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/base/files.h"
#include "core/base/status_macros.h"
#include "core/trace/gzip.h"
#include "google/protobuf/message_lite.h"
#include "sim/chakra/chakra.pb.h"

namespace strata::chakra {
namespace {

constexpr int64_t kChunkBytes = 64 << 10;
constexpr int kMaxVarintBytes = 5;  // Of 32 bits.
constexpr absl::string_view kGzipMagic = "\x1f\x8b";

struct FileCloser {
  void operator()(std::FILE* file) const { std::fclose(file); }
};

}  // namespace

struct TraceReader::State {
  std::string path;
  // One of the two, or neither for bytes that are in `buffer` already.
  std::unique_ptr<std::FILE, FileCloser> file;
  std::optional<GzipReader> gzip;

  std::string buffer;
  size_t position = 0;        // Of the next byte in `buffer`.
  int64_t buffer_offset = 0;  // Of the buffer in the (decompressed) file.
  int64_t message_offset = 0;
  bool at_end = false;
  ChakraProtoMsg::GlobalMetadata metadata;

  int64_t offset() const {
    return buffer_offset + static_cast<int64_t>(position);
  }

  absl::Status ErrorAt(int64_t byte, absl::string_view problem) const {
    std::string where = absl::StrCat(path, ", byte ", byte);
    if (gzip.has_value()) absl::StrAppend(&where, " of what it unpacks to");
    return absl::DataLossError(absl::StrCat(where, ": ", problem));
  }

  // Appends some bytes to the buffer, or sets `at_end`.
  absl::Status Fill() {
    if (gzip.has_value()) {
      const absl::StatusOr<int64_t> got = gzip->Read(&buffer);
      if (!got.ok()) {
        return absl::Status(got.status().code(),
                            absl::StrCat(path, ", byte ", gzip->byte_offset(),
                                         ": ", got.status().message()));
      }
      at_end = *got == 0;
      return absl::OkStatus();
    }
    if (file == nullptr) {
      at_end = true;
      return absl::OkStatus();
    }
    const size_t before = buffer.size();
    buffer.resize(before + kChunkBytes);
    const size_t got = std::fread(&buffer[before], 1, kChunkBytes, file.get());
    buffer.resize(before + got);
    if (std::ferror(file.get())) return FileError(errno, "read", path);
    at_end = got == 0;
    return absl::OkStatus();
  }

  // Whether `num_bytes` are in the buffer from `position` on.
  absl::StatusOr<bool> Want(int64_t num_bytes) {
    if (position > 0 && position >= buffer.size() / 2) {
      buffer.erase(0, position);
      buffer_offset += static_cast<int64_t>(position);
      position = 0;
    }
    while (static_cast<int64_t>(buffer.size() - position) < num_bytes) {
      if (at_end) return false;
      RETURN_IF_ERROR(Fill());
    }
    return true;
  }

  // The length before a message; nullopt at the end of the file.
  absl::StatusOr<std::optional<int64_t>> ReadLength() {
    message_offset = offset();
    uint64_t length = 0;
    for (int i = 0; i < kMaxVarintBytes; ++i) {
      ASSIGN_OR_RETURN(const bool has_byte, Want(1));
      if (!has_byte) {
        if (i == 0) return std::nullopt;
        return ErrorAt(message_offset,
                       absl::StrCat("the file ends within the length of a "
                                    "message, after ",
                                    i, i == 1 ? " byte" : " bytes"));
      }
      const auto byte = static_cast<uint8_t>(buffer[position++]);
      length |= static_cast<uint64_t>(byte & 0x7f) << (7 * i);
      if ((byte & 0x80) == 0) return static_cast<int64_t>(length);
    }
    return ErrorAt(message_offset,
                   "the length of a message has more than 5 bytes; is this a "
                   "Chakra trace?");
  }

  // Parses the next message; false at the end of the file.
  absl::StatusOr<bool> Read(absl::string_view kind,
                            google::protobuf::MessageLite* message) {
    ASSIGN_OR_RETURN(const std::optional<int64_t> length, ReadLength());
    if (!length.has_value()) return false;
    if (*length > kMaxMessageBytes) {
      return ErrorAt(
          message_offset,
          absl::StrCat("a message claims ", *length, " bytes; at most ",
                       kMaxMessageBytes, " are read"));
    }
    ASSIGN_OR_RETURN(const bool whole, Want(*length));
    if (!whole) {
      return ErrorAt(message_offset,
                     absl::StrCat("a message claims ", *length,
                                  " bytes, and the file ends after ",
                                  buffer.size() - position));
    }
    if (!message->ParseFromArray(buffer.data() + position,
                                 static_cast<int>(*length))) {
      return ErrorAt(message_offset, absl::StrCat("no valid ", kind));
    }
    position += *length;
    return true;
  }
};

TraceReader::TraceReader(std::unique_ptr<State> state)
    : state_(std::move(state)) {}
TraceReader::~TraceReader() = default;
TraceReader::TraceReader(TraceReader&&) noexcept = default;
TraceReader& TraceReader::operator=(TraceReader&&) noexcept = default;

absl::StatusOr<TraceReader> TraceReader::Start(std::unique_ptr<State> state) {
  TraceReader reader(std::move(state));
  ASSIGN_OR_RETURN(
      const bool has_metadata,
      reader.state_->Read("GlobalMetadata", &reader.state_->metadata));
  if (!has_metadata) {
    return reader.Error("the file is empty; want a GlobalMetadata first");
  }
  return reader;
}

absl::StatusOr<TraceReader> TraceReader::Open(const std::string& path) {
  auto state = std::make_unique<State>();
  state->path = path;
  state->file.reset(std::fopen(path.c_str(), "rb"));
  if (state->file == nullptr) return FileError(errno, "open", path);
  ASSIGN_OR_RETURN(const bool has_magic, state->Want(kGzipMagic.size()));
  if (has_magic &&
      absl::string_view(state->buffer).substr(0, 2) == kGzipMagic) {
    ASSIGN_OR_RETURN(state->gzip, GzipReader::Open(path));
    state->file.reset();
    state->buffer.clear();
    state->at_end = false;
  }
  return Start(std::move(state));
}

absl::StatusOr<TraceReader> TraceReader::FromBytes(const std::string& name,
                                                   std::string bytes) {
  auto state = std::make_unique<State>();
  state->path = name;
  state->buffer = std::move(bytes);
  return Start(std::move(state));
}

const std::string& TraceReader::path() const { return state_->path; }

const ChakraProtoMsg::GlobalMetadata& TraceReader::metadata() const {
  return state_->metadata;
}

int64_t TraceReader::message_offset() const { return state_->message_offset; }

absl::StatusOr<bool> TraceReader::Next(ChakraProtoMsg::Node* node) {
  return state_->Read("Node", node);
}

absl::Status TraceReader::Error(absl::string_view problem) const {
  return state_->ErrorAt(state_->message_offset, problem);
}

}  // namespace strata::chakra
