#include "sim/chakra/trace_writer.h"

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/base/check.h"
#include "core/base/files.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/io/zero_copy_stream_impl_lite.h"
#include "google/protobuf/message_lite.h"
#include "sim/chakra/chakra.pb.h"

namespace strata::chakra {
namespace {

void AppendDelimited(const google::protobuf::MessageLite& message,
                     std::string& bytes) {
  google::protobuf::io::StringOutputStream stream(&bytes);
  google::protobuf::io::CodedOutputStream coded(&stream);
  coded.WriteVarint32(static_cast<uint32_t>(message.ByteSizeLong()));
  CHECK(message.SerializeToCodedStream(&coded));
}

}  // namespace

std::string SerializeTrace(ChakraProtoMsg::GlobalMetadata metadata,
                           absl::Span<const ChakraProtoMsg::Node> nodes) {
  if (metadata.version().empty()) {
    metadata.set_version(std::string(kTraceVersion));
  }
  std::string bytes;
  AppendDelimited(metadata, bytes);
  for (const ChakraProtoMsg::Node& node : nodes) AppendDelimited(node, bytes);
  return bytes;
}

absl::Status WriteTrace(const std::string& path,
                        const ChakraProtoMsg::GlobalMetadata& metadata,
                        absl::Span<const ChakraProtoMsg::Node> nodes) {
  return WriteFileAtomically(path, SerializeTrace(metadata, nodes));
}

std::string TracePath(absl::string_view prefix, int rank) {
  return absl::StrCat(prefix, ".", rank, ".et");
}

}  // namespace strata::chakra
