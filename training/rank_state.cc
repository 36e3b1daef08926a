#include "training/rank_state.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "absl/types/span.h"
#include "core/base/thread_pool.h"
#include "core/model/config.pb.h"
#include "core/model/init.h"
#include "core/ops/adamw_halves.h"
#include "core/passes/partition/partition_experts.h"
#include "core/runtime/state_store.h"
#include "core/tensor/tensor.h"

namespace strata {
namespace {

constexpr int kWholeAtOnce = 4;

// Memory for a whole tensor, however many of its rows are here.
struct Whole {
  Whole() = default;
  Whole(const TensorView& local, int64_t rows) : view(local) {
    view.shape[0] = rows;
    memory.resize(view.num_bytes());
    view.data = memory.data();
  }
  TensorView view;
  std::vector<char> memory;  // Moved, it stays where it is.
};

}  // namespace

const Shard* FindShard(absl::Span<const Shard> shards,
                       absl::string_view state) {
  for (const absl::string_view prefix :
       {"grad.", "adam.m.", "adam.v.", "low."}) {
    if (absl::ConsumePrefix(&state, prefix)) break;
  }
  for (const Shard& shard : shards) {
    if (shard.parameter == state) return &shard;
  }
  return nullptr;
}

int64_t LocalRow(absl::Span<const Shard> shards, absl::string_view state,
                 int64_t row) {
  const Shard* const shard = FindShard(shards, state);
  if (shard == nullptr) return row;
  return row >= shard->begin && row < shard->end ? row - shard->begin : -1;
}

TensorView RowOf(const TensorView& tensor, int64_t row) {
  TensorView view = tensor;
  view.shape.erase(view.shape.begin());
  view.data = static_cast<char*>(tensor.data) +
              tensor.num_bytes() / tensor.dim(0) * row;
  return view;
}

namespace {

// Rows of the whole that are this rank's.
void CopyRows(absl::Span<const Shard> shards, const Shard& shard,
              const TensorView& whole, const TensorView& local) {
  for (int64_t row = 0; row < shard.whole; ++row) {
    const int64_t at = LocalRow(shards, shard.parameter, row);
    if (at < 0) continue;
    const TensorView target = RowOf(local, at);
    std::memcpy(target.data, RowOf(whole, row).data, target.num_bytes());
  }
}

}  // namespace

void InitializeShards(const ModelConfig& config, uint64_t seed,
                      absl::Span<const Shard> shards, StateStore& local) {
  // A shard's tensor and, where weights lie in halves, the one below.
  struct Parts {
    TensorView view, low;
    bool has_low = false;
  };
  std::vector<Parts> parts(shards.size());
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string low = LowHalfName(shards[i].parameter);
    parts[i].view = local.Get(shards[i].parameter);
    parts[i].has_low = local.Has(low);
    if (parts[i].has_low) parts[i].low = local.Get(low);
  }
  ThreadPool pool(std::min(kWholeAtOnce, NumUsableCores()));
  pool.ParallelFor(static_cast<int64_t>(shards.size()), [&](int64_t i) {
    const Shard& shard = shards[i];
    Whole whole(parts[i].view, shard.whole), low;
    if (parts[i].has_low) low = Whole(parts[i].low, shard.whole);
    InitializeParameter(config, seed, shard.parameter, whole.view,
                        parts[i].has_low ? &low.view : nullptr);
    CopyRows(shards, shard, whole.view, parts[i].view);
    if (parts[i].has_low) CopyRows(shards, shard, low.view, parts[i].low);
  });
}

}  // namespace strata
