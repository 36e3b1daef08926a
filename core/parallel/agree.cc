#include "core/parallel/agree.h"

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "core/base/status_macros.h"
#include "core/parallel/communicator.h"

namespace strata {

absl::StatusOr<std::string> TextOf(int root, const std::string& text,
                                   Communicator& ranks) {
  auto length = static_cast<int32_t>(text.size());
  RETURN_IF_ERROR(ranks.Broadcast(PayloadOf(absl::MakeSpan(&length, 1)), root));
  std::vector<uint8_t> bytes(text.begin(), text.end());
  bytes.resize(length);
  if (length > 0) {
    RETURN_IF_ERROR(ranks.Broadcast(PayloadOf(absl::MakeSpan(bytes)), root));
  }
  return std::string(bytes.begin(), bytes.end());
}

absl::StatusOr<Agreement> Agree(const absl::Status& status,
                                Communicator& ranks) {
  int32_t code = status.raw_code();
  std::vector<int32_t> codes(ranks.size());
  const std::vector<int64_t> counts(ranks.size(), 1);
  RETURN_IF_ERROR(ranks.AllGather(PayloadOf(absl::MakeSpan(&code, 1)), counts,
                                  PayloadOf(absl::MakeSpan(codes))));
  for (int r = 0; r < ranks.size(); ++r) {
    if (codes[r] == 0) continue;
    ASSIGN_OR_RETURN(const std::string message,
                     TextOf(r, std::string(status.message()), ranks));
    return Agreement{absl::Status(
        static_cast<absl::StatusCode>(codes[r]),
        r == 0 ? message : absl::StrCat("rank ", r, ": ", message))};
  }
  return Agreement();
}

}  // namespace strata
