#include "training/balance/move_rows.h"

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "core/base/status_macros.h"
#include "core/parallel/communicator.h"
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
  std::vector<TensorView> views;
  for (const std::string& name : names) views.push_back(state.Get(name));

  // By rank, in the order of the slots that rows go to.
  std::vector<int64_t> sent(ranks.size(), 0), received(ranks.size(), 0);
  std::vector<char> out, in;
  for (int64_t s = 0; s < num_slots; ++s) {
    if (origin[s] == s) continue;
    const int64_t from = origin[s] / own, to = s / own;
    if (from == ranks.rank()) {
      for (const TensorView& view : views) {
        const absl::Span<char> row = Row(view, origin[s] % own);
        out.insert(out.end(), row.begin(), row.end());
      }
      sent[to] += bytes;
    }
    if (to == ranks.rank()) received[from] += bytes;
  }
  std::vector<int64_t> next(ranks.size(), 0);  // Where each sender's begin.
  for (int r = 1; r < ranks.size(); ++r)
    next[r] = next[r - 1] + received[r - 1];
  in.resize(next.back() + received.back());
  RETURN_IF_ERROR(ranks.AllToAll(
      {out.data(), static_cast<int64_t>(out.size()), DType::kU8}, sent,
      received, {in.data(), static_cast<int64_t>(in.size()), DType::kU8}));
  for (int64_t s = ranks.rank() * own; s < (ranks.rank() + 1) * own; ++s) {
    if (origin[s] == s) continue;
    int64_t& at = next[origin[s] / own];
    for (const TensorView& view : views) {
      const absl::Span<char> row = Row(view, s % own);
      std::copy_n(in.data() + at, row.size(), row.data());
      at += static_cast<int64_t>(row.size());
    }
  }
  return absl::OkStatus();
}

}  // namespace strata
