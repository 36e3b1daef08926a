#include "training/balance/move_leg.h"

#include <cstdint>
#include <numeric>
#include <utility>
#include <vector>

#include "core/base/check.h"
#include "core/parallel/placement.h"

namespace strata {
namespace {

// A placement on its way, and where what its slots hold came from.
struct Way {
  std::vector<int32_t> expert;  // [slots]
  std::vector<int32_t> origin;  // [slots]
};

// The first slot that `is` says yes to; -1 for none.
template <typename Is>
int FirstSlot(const Way& way, Is is) {
  for (int s = 0; s < static_cast<int>(way.expert.size()); ++s) {
    if (is(s)) return s;
  }
  return -1;
}

// Brings one slot, or two, to what `target` has there; false if all are.
bool Step(const std::vector<int32_t>& target, Way& way) {
  std::vector<int> copies(target.size(), 0);  // Of each expert.
  for (const int32_t e : way.expert) ++copies[e];
  const auto differs = [&](int s) { return way.expert[s] != target[s]; };
  // One of several copies may be overwritten.
  const int over = FirstSlot(
      way, [&](int s) { return differs(s) && copies[way.expert[s]] > 1; });
  if (over >= 0) {
    const int from =
        FirstSlot(way, [&](int s) { return way.expert[s] == target[over]; });
    CHECK(from >= 0) << "expert " << target[over] << " has no slot";
    way.expert[over] = way.expert[from];
    way.origin[over] = way.origin[from];
    return true;
  }
  // Else the only one goes where it belongs, and what was there comes here.
  const int here = FirstSlot(way, differs);
  if (here < 0) return false;
  const int there = FirstSlot(
      way, [&](int s) { return differs(s) && target[s] == way.expert[here]; });
  CHECK(there >= 0) << "expert " << way.expert[here] << " is to have no slot";
  std::swap(way.expert[here], way.expert[there]);
  std::swap(way.origin[here], way.origin[there]);
  return true;
}

}  // namespace

MoveLeg NextLeg(const PlacementShape& shape, const Placement& present,
                const Placement& target, int64_t max_changed) {
  CHECK_EQ(present.expert.size(), target.expert.size());
  MoveLeg leg;
  Way way = {present.expert, std::vector<int32_t>(present.expert.size())};
  std::iota(way.origin.begin(), way.origin.end(), 0);
  leg.origin = way.origin;
  while (Step(target.expert, way)) {
    MoveLeg longer;
    longer.origin = way.origin;
    for (int s = 0; s < shape.num_slots; ++s) {
      longer.changed += way.origin[s] != s;
      longer.sent += shape.GpuOfSlot(way.origin[s]) != shape.GpuOfSlot(s);
    }
    if (leg.changed > 0 && longer.changed > max_changed) break;
    leg = std::move(longer);
  }
  return leg;
}

Placement After(const Placement& present, const MoveLeg& leg) {
  Placement after;
  for (const int32_t origin : leg.origin) {
    after.expert.push_back(present.expert[origin]);
  }
  return after;
}

}  // namespace strata
