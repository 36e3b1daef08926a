#include "training/balance/move_rows.h"

#include <cstdint>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/base/status_macros.h"
#include "core/parallel/communicator.h"
#include "core/runtime/backend.h"
#include "core/runtime/state_store.h"
#include "core/tensor/dtype.h"
#include "core/tensor/tensor.h"

namespace strata {
namespace {

// Where row `row` of a state is, and how long.
absl::Span<char> Row(const TensorView& view, int64_t row) {
  const int64_t n = view.num_bytes() / view.dim(0);
  return {static_cast<char*>(view.data) + row * n, size_t(n)};
}

int64_t Sum(const std::vector<int64_t>& counts) {
  return std::accumulate(counts.begin(), counts.end(), int64_t{0});
}

// What is sent, or comes, as the ranks' communicator sees it.
absl::StatusOr<Payload> PayloadOf(const Memory& memory, int64_t num_bytes,
                                  Backend& backend) {
  ASSIGN_OR_RETURN(void* const data, backend.KernelAddress(memory.data()));
  return Payload{data, num_bytes, DType::kU8};
}

}  // namespace

int64_t BytesOfSlot(const std::vector<std::string>& names,
                    const StateStore& state) {
  int64_t bytes = 0;
  for (const std::string& name : names) {
    const TensorView& view = state.Peek(name);
    bytes += view.num_bytes() / view.dim(0);
  }
  return bytes;
}

absl::Status MoveRows(absl::Span<const int32_t> origin,
                      const std::vector<std::string>& names,
                      Communicator& ranks, StateStore& state) {
  const auto num_slots = static_cast<int64_t>(origin.size());
  const int64_t own = num_slots / ranks.size();
  const int64_t bytes = BytesOfSlot(names, state);
  // Rows move where kernels see them; the host looks at them anew.
  RETURN_IF_ERROR(state.Publish());
  Backend& backend = state.backend();
  std::vector<TensorView> views;
  for (const std::string& name : names) views.push_back(state.Peek(name));

  std::vector<int64_t> sent(ranks.size(), 0), received(ranks.size(), 0);
  for (int64_t s = 0; s < num_slots; ++s) {
    if (origin[s] == s) continue;
    const int64_t from = origin[s] / own, to = s / own;
    if (from == ranks.rank()) sent[to] += bytes;
    if (to == ranks.rank()) received[from] += bytes;
  }
  ASSIGN_OR_RETURN(const std::unique_ptr<Memory> out,
                   backend.Allocate(Sum(sent)));
  ASSIGN_OR_RETURN(const std::unique_ptr<Memory> in,
                   backend.Allocate(Sum(received)));

  // By rank, in the order of the slots that rows go to.
  char* to = out->data();
  for (int64_t s = 0; s < num_slots; ++s) {
    if (origin[s] == s || origin[s] / own != ranks.rank()) continue;
    for (const TensorView& view : views) {
      const absl::Span<char> row = Row(view, origin[s] % own);
      RETURN_IF_ERROR(backend.Copy(to, row.data(), row.size()));
      to += row.size();
    }
  }
  ASSIGN_OR_RETURN(const Payload sends, PayloadOf(*out, Sum(sent), backend));
  ASSIGN_OR_RETURN(const Payload comes, PayloadOf(*in, Sum(received), backend));
  RETURN_IF_ERROR(ranks.AllToAll(sends, sent, received, comes));

  std::vector<int64_t> next(ranks.size(), 0);  // Where each sender's begin.
  for (int r = 1; r < ranks.size(); ++r) {
    next[r] = next[r - 1] + received[r - 1];
  }
  for (int64_t s = ranks.rank() * own; s < (ranks.rank() + 1) * own; ++s) {
    if (origin[s] == s) continue;
    int64_t& at = next[origin[s] / own];
    for (const TensorView& view : views) {
      const absl::Span<char> row = Row(view, s % own);
      RETURN_IF_ERROR(backend.Copy(row.data(), in->data() + at, row.size()));
      at += static_cast<int64_t>(row.size());
    }
  }
  // Copies from `in` are done before it goes.
  return backend.KernelAddress(in->data()).status();
}

}  // namespace strata
