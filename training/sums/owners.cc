#include "training/sums/owners.h"

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace strata {

Owners::Owners(std::vector<Parameter> parameters, int num_ranks, int rank)
    : num_ranks_(num_ranks), rank_(num_ranks > 1 ? rank : 0) {
  std::sort(parameters.begin(), parameters.end(),
            [](const Parameter& a, const Parameter& b) {
              return a.elements != b.elements ? a.elements > b.elements
                                              : a.name < b.name;
            });
  std::vector<int64_t> held(num_ranks, 0);
  for (const Parameter& parameter : parameters) {
    const auto least = std::min_element(held.begin(), held.end());
    *least += parameter.elements;
    owner_[parameter.name] = static_cast<int>(least - held.begin());
  }
}

bool Owners::IsMine(const std::string& parameter) const {
  const auto it = owner_.find(parameter);
  return it != owner_.end() && it->second == rank_;
}

}  // namespace strata
