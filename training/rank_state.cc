#include "training/rank_state.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "absl/types/span.h"
#include "core/base/thread_pool.h"
#include "core/model/config.pb.h"
#include "core/model/init.h"
#include "core/passes/partition/partition_experts.h"
#include "core/runtime/state_store.h"
#include "core/tensor/tensor.h"

namespace strata {
namespace {

constexpr int kWholeAtOnce = 4;

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

void InitializeShards(const ModelConfig& config, uint64_t seed,
                      absl::Span<const Shard> shards, StateStore& local) {
  std::vector<TensorView> views;
  for (const Shard& shard : shards) views.push_back(local.Get(shard.parameter));
  ThreadPool pool(std::min(kWholeAtOnce, NumUsableCores()));
  pool.ParallelFor(static_cast<int64_t>(shards.size()), [&](int64_t i) {
    TensorView whole = views[i];
    whole.shape[0] = shards[i].whole;  // However many slots are here.
    std::vector<char> memory(whole.num_bytes());
    whole.data = memory.data();
    InitializeParameter(config, seed, shards[i].parameter, whole);
    for (int64_t row = 0; row < shards[i].whole; ++row) {
      const int64_t at = LocalRow(shards, shards[i].parameter, row);
      if (at < 0) continue;
      const TensorView target = RowOf(views[i], at);
      std::memcpy(target.data, RowOf(whole, row).data, target.num_bytes());
    }
  });
}

}  // namespace strata
