#include "serving/api/api_keys.h"

#include <algorithm>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "core/base/sha256.h"

namespace strata {
namespace {

constexpr size_t kHexDigits = 64;

}  // namespace

absl::StatusOr<ApiKeys> ApiKeys::Parse(absl::string_view text) {
  ApiKeys keys;
  int line_number = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    ++line_number;
    line = absl::StripAsciiWhitespace(line);
    if (line.empty() || line[0] == '#') continue;
    const absl::string_view hash = line.substr(0, line.find_first_of(" \t"));
    const bool is_hash =
        hash.size() == kHexDigits &&
        std::all_of(hash.begin(), hash.end(), absl::ascii_isxdigit);
    if (!is_hash) {
      // Not the line itself: it may be a key that was not hashed.
      return absl::InvalidArgumentError(
          absl::StrCat("line ", line_number,
                       " does not begin with the 64 hexadecimal digits of a "
                       "SHA-256"));
    }
    keys.hashes_.push_back(absl::AsciiStrToLower(hash));
  }
  if (keys.hashes_.empty()) {
    return absl::InvalidArgumentError("there is no key, so nobody could ask");
  }
  return keys;
}

int ApiKeys::Find(absl::string_view key) const {
  const std::string hash = Sha256Hex(key);
  int found = -1;
  for (size_t k = 0; k < hashes_.size(); ++k) {
    unsigned difference = 0;
    for (size_t i = 0; i < kHexDigits; ++i) {
      difference |= static_cast<unsigned char>(hashes_[k][i]) ^
                    static_cast<unsigned char>(hash[i]);
    }
    // All ones if there is no difference.
    const int same = -static_cast<int>(difference == 0);
    found = (same & static_cast<int>(k)) | (~same & found);
  }
  return found;
}

}  // namespace strata
