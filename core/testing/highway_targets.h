// A test's body under every instruction set that this processor has, for
// kernels that Highway dispatches at run time.

#ifndef CORE_TESTING_HIGHWAY_TARGETS_H_
#define CORE_TESTING_HIGHWAY_TARGETS_H_

#include <cstdint>
#include <functional>
#include <initializer_list>

#include "gtest/gtest.h"
#include "hwy/highway.h"

namespace strata {

// Calls `body` with each of `targets` (HWY_AVX2, ...) that is there alone.
inline void ForEachTarget(std::initializer_list<int64_t> targets,
                          const std::function<void()>& body) {
  for (const int64_t target : targets) {
    hwy::SetSupportedTargetsForTest(0);
    if ((hwy::SupportedTargets() & target) == 0) continue;
    SCOPED_TRACE(hwy::TargetName(target));
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
    body();
  }
  hwy::SetSupportedTargetsForTest(0);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

}  // namespace strata

#endif  // CORE_TESTING_HIGHWAY_TARGETS_H_
