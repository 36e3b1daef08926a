#include "core/base/build_info.h"

#include <string_view>

namespace strata {

std::string_view Version() { return STRATA_VERSION; }

// Weak: :build_stamp has the one that counts.
__attribute__((weak)) std::string_view Commit() { return "unknown"; }

}  // namespace strata
