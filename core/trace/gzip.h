// Gzip as frames: members that are compressed each on its own and stand one
// after another in a file, which any gzip tool reads as one.
//
//   GzipCompressor gzip;
//   RETURN_IF_ERROR(file.Append(gzip.Compress(frame)));
//
//   ASSIGN_OR_RETURN(GzipReader reader, GzipReader::Open(path));
//   do { ASSIGN_OR_RETURN(num_bytes, reader.Read(&text)); } while (num_bytes);

#ifndef CORE_TRACE_GZIP_H_
#define CORE_TRACE_GZIP_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace strata {

// Keeps its working memory (some 256 KiB) between frames. The same bytes give
// the same frame.
class GzipCompressor {
 public:
  GzipCompressor();
  ~GzipCompressor();
  GzipCompressor(GzipCompressor&&) noexcept;
  GzipCompressor& operator=(GzipCompressor&&) noexcept;

  // `bytes` as one frame. Valid until the next call.
  absl::string_view Compress(absl::string_view bytes);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Reads the frames of a file from front to back, in memory of fixed size
// whatever the file holds.
class GzipReader {
 public:
  static absl::StatusOr<GzipReader> Open(const std::string& path);
  ~GzipReader();
  GzipReader(GzipReader&&) noexcept;
  GzipReader& operator=(GzipReader&&) noexcept;

  // Appends the next 64 KiB at most to `out`, and returns how many bytes that
  // were; 0 at the end of the file.
  //
  // Returns DATA_LOSS, after all bytes before it have been returned, if the
  // file is damaged or ends within a frame, and the system's error if it cannot
  // be read. The same error again from then on.
  absl::StatusOr<int64_t> Read(std::string* out);

  // Bytes of the file that were decompressed, and where the frame began that
  // the last byte was in.
  int64_t byte_offset() const;
  int64_t frame_offset() const;

 private:
  struct State;
  explicit GzipReader(std::unique_ptr<State> state);

  std::unique_ptr<State> state_;
};

}  // namespace strata

#endif  // CORE_TRACE_GZIP_H_
