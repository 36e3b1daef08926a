#include "core/runtime/state_store.h"

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/base/check.h"
#include "core/base/status_macros.h"
#include "core/graph/graph.h"
#include "core/tensor/tensor.h"

namespace strata {

absl::Status StateStore::Declare(const Graph& graph) {
  for (const Value& value : graph.values()) {
    if (value.role != Role::kParameter && value.role != Role::kState) continue;
    TensorView view;
    view.dtype = value.type.dtype;
    for (const Dim& dim : value.type.dims) view.shape.push_back(dim.bound);

    if (const auto it = entries_.find(value.name); it != entries_.end()) {
      const TensorView& here = it->second.view;
      if (here.dtype != view.dtype || here.shape != view.shape) {
        return absl::InvalidArgumentError(absl::StrCat(
            value.name, " is ", Name(here.dtype), ToString(here.shape),
            "; the graph wants ", Name(view.dtype), ToString(view.shape)));
      }
      continue;
    }
    ASSIGN_OR_RETURN(std::unique_ptr<Memory> memory,
                     backend_.Allocate(view.num_bytes()));
    view.data = memory->data();
    names_.push_back(value.name);
    entries_[value.name] = {view, value.role, std::move(memory)};
  }
  return absl::OkStatus();
}

void StateStore::Adopt(absl::string_view name, const TensorView& tensor,
                       Role role, std::unique_ptr<Memory> memory) {
  CHECK(!Has(name)) << std::string(name) << " is here already";
  names_.emplace_back(name);
  entries_[names_.back()] = {tensor, role, std::move(memory)};
}

const TensorView& StateStore::Get(absl::string_view name) const {
  const auto it = entries_.find(name);
  CHECK(it != entries_.end()) << "no state called " << std::string(name);
  return it->second.view;
}

Role StateStore::role(absl::string_view name) const {
  const auto it = entries_.find(name);
  CHECK(it != entries_.end()) << "no state called " << std::string(name);
  return it->second.role;
}

int64_t StateStore::num_bytes() const {
  int64_t sum = 0;
  for (const auto& [name, entry] : entries_) sum += entry.view.num_bytes();
  return sum;
}

}  // namespace strata
