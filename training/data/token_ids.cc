#include "training/data/token_ids.h"

#include <algorithm>
#include <cstdint>

#include "absl/types/span.h"
#include "core/base/check.h"

namespace strata {

void TokenIds::Append(int32_t id) {
  CHECK(id >= 0 && (!is_narrow_ || id <= UINT16_MAX))
      << "id " << id << " in " << bytes_per_id() << " bytes";
  if (is_narrow_) {
    narrow_.push_back(static_cast<uint16_t>(id));
  } else {
    wide_.push_back(static_cast<uint32_t>(id));
  }
}

void TokenIds::Copy(int64_t first, absl::Span<int32_t> ids) const {
  CHECK(first >= 0 && first + static_cast<int64_t>(ids.size()) <= size())
      << ids.size() << " ids from " << first << " on, of " << size();
  if (is_narrow_) {
    std::copy_n(narrow_.begin() + first, ids.size(), ids.begin());
  } else {
    std::copy_n(wide_.begin() + first, ids.size(), ids.begin());
  }
}

void TokenIds::ShrinkToFit() {
  narrow_.shrink_to_fit();
  wide_.shrink_to_fit();
}

}  // namespace strata
