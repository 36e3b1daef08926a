#include "core/quant/bit_budget.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace strata {
namespace {

// Steps [first, last) of a choice, which are taken together.
struct Climb {
  BitChoice* choice;
  int64_t first, last;
  double gain;
  int64_t extra_bytes;

  bool GainsMoreThan(const Climb& other) const {
    return gain * static_cast<double>(other.extra_bytes) >
           other.gain * static_cast<double>(extra_bytes);
  }
};

// The steps of `choice`, such that none gains more a byte than one before it.
void AddClimbs(BitChoice& choice, std::vector<Climb>& climbs) {
  const size_t begin = climbs.size();
  for (size_t i = 0; i < choice.steps.size(); ++i) {
    const BitChoice::Step& step = choice.steps[i];
    const auto at = static_cast<int64_t>(i);
    Climb climb = {&choice, at, at + 1, step.gain, step.extra_bytes};
    while (climbs.size() > begin && climb.GainsMoreThan(climbs.back())) {
      const Climb& before = climbs.back();
      climb.first = before.first;
      climb.gain += before.gain;
      climb.extra_bytes += before.extra_bytes;
      climbs.pop_back();
    }
    climbs.push_back(climb);
  }
}

}  // namespace

absl::Status SpendBytes(int64_t budget, int64_t least,
                        std::vector<BitChoice>& choices) {
  if (budget < least) {
    return absl::InvalidArgumentError(
        absl::StrCat("a budget of ", budget,
                     " bytes cannot be met; the smallest possible is ", least));
  }
  std::vector<Climb> climbs;
  for (BitChoice& choice : choices) AddClimbs(choice, climbs);
  // Ties by position, so that a choice is the same everywhere.
  std::stable_sort(
      climbs.begin(), climbs.end(),
      [](const Climb& a, const Climb& b) { return a.GainsMoreThan(b); });
  int64_t left = budget - least;
  for (const Climb& climb : climbs) {
    if (climb.extra_bytes > left || climb.choice->num_taken != climb.first) {
      continue;
    }
    climb.choice->num_taken = climb.last;
    left -= climb.extra_bytes;
  }
  return absl::OkStatus();
}

}  // namespace strata
