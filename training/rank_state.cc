#include "training/rank_state.h"

#include <cstdint>
#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "absl/types/span.h"
#include "core/base/status_macros.h"
#include "core/graph/graph.h"
#include "core/model/config.pb.h"
#include "core/model/init.h"
#include "core/passes/partition/partition_experts.h"
#include "core/runtime/backend.h"
#include "core/runtime/state_store.h"
#include "core/tensor/tensor.h"

namespace strata {

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

absl::Status InitializeShards(const ModelConfig& config, uint64_t seed,
                              absl::Span<const Shard> shards, Backend& backend,
                              StateStore& local) {
  for (const Shard& shard : shards) {
    const TensorView& view = local.Peek(shard.parameter);
    Value value;
    value.name = shard.parameter;
    value.role = Role::kParameter;
    value.type.dtype = view.dtype;
    for (const int64_t extent : view.shape) {
      value.type.dims.push_back(Static(extent));
    }
    value.type.dims[0] = Static(shard.whole);  // However many slots are here.
    Graph graph;
    graph.AddValue(value);
    StateStore whole(backend);
    RETURN_IF_ERROR(whole.Declare(graph));
    InitializeParameters(config, seed, whole);
    const TensorView& from = whole.Get(shard.parameter);
    const TensorView& to = local.Get(shard.parameter);
    for (int64_t row = 0; row < shard.whole; ++row) {
      const int64_t at = LocalRow(shards, shard.parameter, row);
      if (at < 0) continue;
      const TensorView target = RowOf(to, at);
      std::memcpy(target.data, RowOf(from, row).data, target.num_bytes());
    }
  }
  return absl::OkStatus();
}

}  // namespace strata
