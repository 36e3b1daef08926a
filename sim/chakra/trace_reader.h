// Reads a Chakra trace file, plain or gzip, from front to back.
//
//   ASSIGN_OR_RETURN(TraceReader reader, TraceReader::Open("moe.0.et"));
//   ChakraProtoMsg::Node node;
//   while (true) {
//     ASSIGN_OR_RETURN(const bool more, reader.Next(&node));
//     if (!more) break;
//   }
//
// A file is untrusted: a message is at most 64 MiB, and buffers grow as bytes
// arrive, not as a length claims. Memory is that of one message, as protobuf
// parses it. Fields that this version does not know are skipped, unknown values
// of enums kept.

#ifndef SIM_CHAKRA_TRACE_READER_H_
#define SIM_CHAKRA_TRACE_READER_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "sim/chakra/chakra.pb.h"

namespace strata::chakra {

inline constexpr int64_t kMaxMessageBytes = int64_t{64} << 20;

class TraceReader {
 public:
  // Opens the file and reads its metadata.
  //
  // Returns the system's error, or DATA_LOSS with the byte if the file does not
  // begin with a GlobalMetadata.
  static absl::StatusOr<TraceReader> Open(const std::string& path);

  // The same, of bytes in memory; `name` stands for the path in errors.
  static absl::StatusOr<TraceReader> FromBytes(const std::string& name,
                                               std::string bytes);

  ~TraceReader();
  TraceReader(TraceReader&&) noexcept;
  TraceReader& operator=(TraceReader&&) noexcept;

  const std::string& path() const;
  const ChakraProtoMsg::GlobalMetadata& metadata() const;

  // Reads the next node, or returns false at the end of the file.
  //
  // Returns DATA_LOSS, naming the file and the byte, if the file is truncated,
  // if its compression is damaged, or if a message is malformed or too large.
  absl::StatusOr<bool> Next(ChakraProtoMsg::Node* node);

  // Where the latest message began. Of a compressed file: in what it
  // decompresses to.
  int64_t message_offset() const;

  // `problem` with the file and where the latest message began.
  absl::Status Error(absl::string_view problem) const;

 private:
  struct State;
  explicit TraceReader(std::unique_ptr<State> state);

  static absl::StatusOr<TraceReader> Start(std::unique_ptr<State> state);

  std::unique_ptr<State> state_;
};

}  // namespace strata::chakra

#endif  // SIM_CHAKRA_TRACE_READER_H_
