// Keys that clients must show: a file of their SHA-256, so that who reads it
// cannot use it.
//
//   # comment
//   9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08  name
//
// which `printf %s KEY | sha256sum` prints.

#ifndef SERVING_API_API_KEYS_H_
#define SERVING_API_API_KEYS_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace strata {

class ApiKeys {
 public:
  // Returns INVALID_ARGUMENT with the line if one is not 64 hexadecimal digits
  // and a name that is optional, or if there is no key at all.
  static absl::StatusOr<ApiKeys> Parse(absl::string_view text);

  // Which of them `key` is, from 0; -1 if it is none. Takes as long whichever
  // it is.
  int Find(absl::string_view key) const;
  bool Contains(absl::string_view key) const { return Find(key) >= 0; }

 private:
  std::vector<std::string> hashes_;  // In lower case.
};

}  // namespace strata

#endif  // SERVING_API_API_KEYS_H_
