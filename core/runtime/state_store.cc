#include "core/runtime/state_store.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

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
    absl::StatusOr<std::unique_ptr<Memory>> memory =
        backend_.Allocate(view.num_bytes());
    if (!memory.ok()) {
      return absl::Status(
          memory.status().code(),
          absl::StrCat(
              Name(value.role), " ", value.name, ", after ", num_bytes() >> 20,
              " MiB of parameters and state: ", memory.status().message()));
    }
    view.data = (*memory)->data();
    names_.push_back(value.name);
    entries_[value.name] = {view, value.role, *std::move(memory), num_runs_};
  }
  return absl::OkStatus();
}

void StateStore::Adopt(absl::string_view name, const TensorView& tensor,
                       Role role, std::unique_ptr<Memory> memory) {
  CHECK(!Has(name)) << std::string(name) << " is here already";
  names_.emplace_back(name);
  entries_[names_.back()] = {tensor, role, std::move(memory), num_runs_};
  if (!backend_.shares_host_memory()) given_out_.push_back(names_.back());
}

const TensorView& StateStore::Get(absl::string_view name) const {
  const TensorView& view = Read(name);
  if (!backend_.shares_host_memory()) given_out_.emplace_back(name);
  return view;
}

const TensorView& StateStore::Read(absl::string_view name) const {
  const TensorView& view = Peek(name);
  if (backend_.shares_host_memory()) return view;
  Entry& entry = entries_.find(name)->second;
  if (entry.seen_at_run != num_runs_) {
    const absl::Status status = backend_.ToHost(view);
    CHECK(status.ok()) << std::string(name) << ": " << status.ToString();
    entry.seen_at_run = num_runs_;
  }
  return view;
}

const TensorView& StateStore::Peek(absl::string_view name) const {
  const auto it = entries_.find(name);
  CHECK(it != entries_.end()) << "no state called " << std::string(name);
  return it->second.view;
}

absl::Status StateStore::Publish() {
  std::sort(given_out_.begin(), given_out_.end());
  given_out_.erase(std::unique(given_out_.begin(), given_out_.end()),
                   given_out_.end());
  for (const std::string& name : given_out_) {
    RETURN_IF_ERROR(backend_.ToDevice(Peek(name)));
  }
  given_out_.clear();
  ++num_runs_;
  return absl::OkStatus();
}

absl::Status StateStore::Clear(absl::string_view name) {
  const TensorView& view = Peek(name);
  RETURN_IF_ERROR(backend_.Clear(view.data, view.num_bytes()));
  if (backend_.shares_host_memory()) return absl::OkStatus();
  given_out_.erase(std::remove(given_out_.begin(), given_out_.end(), name),
                   given_out_.end());
  entries_.find(name)->second.seen_at_run = -1;
  return absl::OkStatus();
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
