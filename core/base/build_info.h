// Which Strata this is: for --version, and for the manifest of every output.

#ifndef CORE_BASE_BUILD_INFO_H_
#define CORE_BASE_BUILD_INFO_H_

#include <string_view>

namespace strata {

// Returns the release, such as "0.1.0".
std::string_view Version();

// Returns the commit's first 12 digits, with "-modified" after them if tracked
// files differed from it; "unknown" outside of a git checkout and in a binary
// that does not link :build_stamp (tests, so that a commit reruns none).
std::string_view Commit();

}  // namespace strata

#endif  // CORE_BASE_BUILD_INFO_H_
