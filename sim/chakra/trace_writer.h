// Writes Chakra traces as other readers want them: metadata first, which is
// never empty, since a length of zero ends the file for some.

#ifndef SIM_CHAKRA_TRACE_WRITER_H_
#define SIM_CHAKRA_TRACE_WRITER_H_

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "sim/chakra/chakra.pb.h"

namespace strata::chakra {

// The version that the writer states where the caller has none.
inline constexpr absl::string_view kTraceVersion = "0.0.4";

// The bytes of a file. An empty version becomes kTraceVersion.
std::string SerializeTrace(ChakraProtoMsg::GlobalMetadata metadata,
                           absl::Span<const ChakraProtoMsg::Node> nodes);

// Writes them to `path`; to "PREFIX.<rank>.et", as readers expect.
absl::Status WriteTrace(const std::string& path,
                        const ChakraProtoMsg::GlobalMetadata& metadata,
                        absl::Span<const ChakraProtoMsg::Node> nodes);

// The file of a rank: "PREFIX.<rank>.et".
std::string TracePath(absl::string_view prefix, int rank);

}  // namespace strata::chakra

#endif  // SIM_CHAKRA_TRACE_WRITER_H_
