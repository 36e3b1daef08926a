#include "core/checkpoint/shards/expert_parts.h"

#include <cstdint>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/base/check.h"
#include "core/checkpoint/stored_tensor.h"
#include "core/tensor/shape.h"

namespace strata {
namespace {

constexpr absl::string_view kExperts = ".experts.";

}  // namespace

bool IsOfExperts(absl::string_view name, const Shape& shape) {
  return shape.size() == 3 && absl::StrContains(name, kExperts);
}

std::string ExpertPart(absl::string_view name, int64_t e) {
  const size_t at = name.rfind(kExperts);
  CHECK(at != name.npos) << std::string(name);
  return absl::StrCat(name.substr(0, at + kExperts.size()), e,
                      name.substr(at + kExperts.size() - 1));
}

void SplitAsIn(const StoredTensors& other, StoredTensors& tensors) {
  for (auto it = tensors.begin(); it != tensors.end();) {
    const auto& [name, whole] = *it;
    if (!IsOfExperts(name, whole.view.shape) ||
        whole.packing != StoredTensor::Packing::kNone ||
        other.count(name) > 0 || other.count(ExpertPart(name, 0)) == 0) {
      ++it;
      continue;
    }
    const int64_t experts = whole.view.dim(0);
    for (int64_t e = 0; e < experts; ++e) {
      tensors.emplace(
          ExpertPart(name, e),
          PartOf(whole, e, experts, {whole.view.dim(1), whole.view.dim(2)}));
    }
    it = tensors.erase(it);
  }
}

}  // namespace strata
