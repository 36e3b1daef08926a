#include "core/trace/gzip.h"

#include <fcntl.h>
#include <unistd.h>
#include <zlib.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/base/check.h"
#include "core/base/files.h"

namespace strata {
namespace {

// Window of 32 KiB, with gzip's header and checksum.
constexpr int kGzipWindowBits = 15 + 16;
constexpr int kMemoryLevel = 8;  // zlib's default.
// A third of the default level's time for an eighth more bytes, on choices of
// tokens: a recording must not hold up what it records.
constexpr int kLevel = Z_BEST_SPEED;
constexpr int64_t kChunkBytes = 64 << 10;

Bytef* ToBytes(const char* bytes) {
  // zlib's input pointers are const in meaning alone.
  return reinterpret_cast<Bytef*>(const_cast<char*>(bytes));
}

}  // namespace

struct GzipCompressor::State {
  z_stream stream = {};
  std::string frame;

  State() {
    CHECK_EQ(deflateInit2(&stream, kLevel, Z_DEFLATED, kGzipWindowBits,
                          kMemoryLevel, Z_DEFAULT_STRATEGY),
             Z_OK);
  }
  ~State() { deflateEnd(&stream); }
};

GzipCompressor::GzipCompressor() : state_(std::make_unique<State>()) {}
GzipCompressor::~GzipCompressor() = default;
GzipCompressor::GzipCompressor(GzipCompressor&&) noexcept = default;
GzipCompressor& GzipCompressor::operator=(GzipCompressor&&) noexcept = default;

absl::string_view GzipCompressor::Compress(absl::string_view bytes) {
  z_stream& stream = state_->stream;
  std::string& frame = state_->frame;
  CHECK_EQ(deflateReset(&stream), Z_OK);
  frame.resize(deflateBound(&stream, bytes.size()));
  stream.next_in = ToBytes(bytes.data());
  stream.avail_in = static_cast<uInt>(bytes.size());
  CHECK_EQ(stream.avail_in, bytes.size());
  stream.next_out = ToBytes(frame.data());
  stream.avail_out = static_cast<uInt>(frame.size());
  // The bound has room for all of it.
  CHECK_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  return absl::string_view(frame.data(), frame.size() - stream.avail_out);
}

struct GzipReader::State {
  std::string path;
  int fd = -1;
  z_stream stream = {};
  std::array<char, kChunkBytes> input;
  int64_t num_read = 0;  // Bytes of the file that `input` has held.
  bool at_end = false;   // Of the file; `input` may have some left.
  bool in_frame = false;
  int64_t frame_offset = 0;
  absl::Status status;

  ~State() {
    inflateEnd(&stream);
    if (fd >= 0) close(fd);
  }

  int64_t byte_offset() const { return num_read - stream.avail_in; }

  absl::Status FillInput() {
    ssize_t got;
    do {
      got = read(fd, input.data(), input.size());
    } while (got < 0 && errno == EINTR);
    if (got < 0) return FileError(errno, "read", path);
    at_end = got == 0;
    num_read += got;
    stream.next_in = ToBytes(input.data());
    stream.avail_in = static_cast<uInt>(got);
    return absl::OkStatus();
  }

  // Decompresses until `room` bytes at `out` are full, the file ends or an
  // error occurs; what was written before the error counts.
  absl::Status Inflate(char* out, int64_t room) {
    stream.next_out = ToBytes(out);
    stream.avail_out = static_cast<uInt>(room);
    while (stream.avail_out > 0) {
      if (stream.avail_in == 0) {
        const absl::Status filled = FillInput();
        if (!filled.ok()) return filled;
        if (at_end) {
          return in_frame ? absl::DataLossError("the file ends within a frame")
                          : absl::OkStatus();
        }
      }
      if (!in_frame) {
        frame_offset = byte_offset();
        in_frame = true;
        CHECK_EQ(inflateReset(&stream), Z_OK);
      }
      const int result = inflate(&stream, Z_NO_FLUSH);
      if (result == Z_STREAM_END) {
        in_frame = false;
      } else if (result == Z_MEM_ERROR) {
        return absl::ResourceExhaustedError("no memory to decompress");
      } else if (result != Z_OK && result != Z_BUF_ERROR) {
        return absl::DataLossError(absl::StrCat(
            "gzip: ",
            stream.msg != nullptr ? stream.msg : "preset dictionary wanted"));
      }
    }
    return absl::OkStatus();
  }
};

GzipReader::GzipReader(std::unique_ptr<State> state)
    : state_(std::move(state)) {}
GzipReader::~GzipReader() = default;
GzipReader::GzipReader(GzipReader&&) noexcept = default;
GzipReader& GzipReader::operator=(GzipReader&&) noexcept = default;

absl::StatusOr<GzipReader> GzipReader::Open(const std::string& path) {
  auto state = std::make_unique<State>();
  state->path = path;
  CHECK_EQ(inflateInit2(&state->stream, kGzipWindowBits), Z_OK);
  state->fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (state->fd < 0) return FileError(errno, "open", path);
  return GzipReader(std::move(state));
}

absl::StatusOr<int64_t> GzipReader::Read(std::string* out) {
  State& state = *state_;
  if (!state.status.ok()) return state.status;
  const size_t before = out->size();
  out->resize(before + kChunkBytes);
  state.status = state.Inflate(&(*out)[before], kChunkBytes);
  const int64_t num_bytes = kChunkBytes - state.stream.avail_out;
  out->resize(before + num_bytes);
  // An error waits until what was good has been taken.
  if (num_bytes == 0 && !state.status.ok()) return state.status;
  return num_bytes;
}

int64_t GzipReader::byte_offset() const { return state_->byte_offset(); }
int64_t GzipReader::frame_offset() const { return state_->frame_offset; }

}  // namespace strata
