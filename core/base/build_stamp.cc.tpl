#include <string_view>

#include "core/base/build_info.h"

namespace strata {

std::string_view Commit() { return "@GIT_COMMIT@"; }

}  // namespace strata
