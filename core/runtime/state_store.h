// Parameters and other state: named tensors at addresses that never change.

#ifndef CORE_RUNTIME_STATE_STORE_H_
#define CORE_RUNTIME_STATE_STORE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/graph/graph.h"
#include "core/runtime/backend.h"
#include "core/tensor/tensor.h"

namespace strata {

// Programs are compiled against a store and hold pointers into it, so it must
// outlive them. Tensors are zero when declared.
//
// Where kernels have memory of their own, Get() brings a tensor to the host and
// what the host then does to it is brought back before a program runs; so call
// it anew after each run.
class StateStore {
 public:
  explicit StateStore(Backend& backend) : backend_(backend) {}

  // Makes room for every parameter and state value of `graph` that is not here
  // yet.
  //
  // Returns INVALID_ARGUMENT if one is here with another dtype or shape, and
  // RESOURCE_EXHAUSTED if memory runs out.
  absl::Status Declare(const Graph& graph);

  // Puts a tensor here that lies in memory which it does not own, such as a
  // mapped file; `memory` keeps that alive. There must be none of that name.
  void Adopt(absl::string_view name, const TensorView& tensor, Role role,
             std::unique_ptr<Memory> memory);

  bool Has(absl::string_view name) const { return entries_.contains(name); }
  // The tensor, which must be here.
  const TensorView& Get(absl::string_view name) const;
  // The same, to look only: it is not brought back.
  const TensorView& Read(absl::string_view name) const;
  // The same, to know its type and place without looking at its elements.
  const TensorView& Peek(absl::string_view name) const;
  // Brings what Get() gave out back to where kernels see it. What is done there
  // by others than programs (Backend::Copy) comes after it, and the next Get()
  // sees that.
  absl::Status Publish();
  // Zeroes the tensor where kernels see it, whatever Get() gave out before.
  absl::Status Clear(absl::string_view name);
  Backend& backend() const { return backend_; }
  Role role(absl::string_view name) const;
  // In order of declaration.
  const std::vector<std::string>& names() const { return names_; }
  int64_t num_bytes() const;

 private:
  struct Entry {
    TensorView view;
    Role role;
    std::unique_ptr<Memory> memory;
    int64_t seen_at_run = 0;  // The host's copy is that of so many runs.
  };

  Backend& backend_;
  mutable absl::flat_hash_map<std::string, Entry> entries_;
  mutable std::vector<std::string> given_out_;  // Since the last Publish().
  int64_t num_runs_ = 0;
  std::vector<std::string> names_;
};

}  // namespace strata

#endif  // CORE_RUNTIME_STATE_STORE_H_
