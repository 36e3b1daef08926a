#include "training/rank_state.h"

#include <cstdint>
#include <cstring>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "absl/types/span.h"
#include "core/base/status_macros.h"
#include "core/graph/graph.h"
#include "core/model/config.pb.h"
#include "core/model/init.h"
#include "core/parallel/communicator.h"
#include "core/passes/partition/partition_experts.h"
#include "core/runtime/backend.h"
#include "core/runtime/state_store.h"
#include "core/tensor/dtype.h"
#include "core/tensor/tensor.h"

namespace strata {
namespace {

// Where in `whole` the rows of a shard are that begin at `begin`.
char* At(const TensorView& whole, int64_t begin) {
  return static_cast<char*>(whole.data) +
         whole.num_bytes() / whole.dim(0) * begin;
}

// The first stage that has each of `names`; [names].
absl::StatusOr<std::vector<int>> FirstHolders(
    const StateStore& local, const std::vector<std::string>& names,
    Communicator& pp) {
  std::vector<int32_t> from_end;
  for (const std::string& name : names) {
    from_end.push_back(local.Has(name) ? pp.size() - pp.rank() : 0);
  }
  RETURN_IF_ERROR(
      pp.AllReduce(PayloadOf(absl::MakeSpan(from_end)), ReduceOp::kMax));
  std::vector<int> holder;
  for (size_t i = 0; i < names.size(); ++i) {
    if (from_end[i] == 0) {
      return absl::InternalError(
          absl::StrCat("no stage of the pipeline has ", names[i]));
    }
    holder.push_back(pp.size() - from_end[i]);
  }
  return holder;
}

// The whole of `mine` at `to`, on the first rank of ep, from all of them; `to`
// is null on the others.
absl::Status GatherTensor(const TensorView& mine, const Shard* shard,
                          Communicator& ep, char* to) {
  const Payload payload = {mine.data, mine.num_elements(), mine.dtype};
  if (ep.rank() == 0 && payload.count > 0) {
    std::memcpy(to, mine.data, mine.num_bytes());
  }
  if (shard == nullptr) return absl::OkStatus();
  if (ep.rank() > 0) {
    RETURN_IF_ERROR(ep.Send(payload, /*to=*/0));
  } else {
    for (int r = 1; r < ep.size(); ++r) {
      RETURN_IF_ERROR(ep.Receive(
          {to + r * mine.num_bytes(), payload.count, payload.dtype}, r));
    }
  }
  return ep.Barrier();  // A message that nobody waits for is a copy.
}

}  // namespace

const Shard* FindShard(absl::Span<const Shard> shards,
                       absl::string_view state) {
  for (const absl::string_view prefix : {"grad.", "adam.m.", "adam.v."}) {
    if (absl::ConsumePrefix(&state, prefix)) break;
  }
  for (const Shard& shard : shards) {
    if (shard.parameter == state) return &shard;
  }
  return nullptr;
}

absl::StatusOr<std::unique_ptr<StateStore>> DeclareStates(
    const Graph& graph, const std::vector<std::string>& names,
    Backend& backend) {
  const std::set<std::string> wanted(names.begin(), names.end());
  Graph states;
  for (const Value& value : graph.values()) {
    if ((value.role == Role::kParameter || value.role == Role::kState) &&
        wanted.count(value.name) > 0) {
      states.AddValue(value);
    }
  }
  auto store = std::make_unique<StateStore>(backend);
  RETURN_IF_ERROR(store->Declare(states));
  return store;
}

void TakeShards(const StateStore& whole, const std::vector<std::string>& names,
                absl::Span<const Shard> shards, StateStore& local) {
  for (const std::string& name : names) {
    if (!local.Has(name)) continue;
    const TensorView& to = local.Get(name);
    const TensorView& from = whole.Get(name);
    if (to.num_bytes() == 0) continue;
    const Shard* const shard = FindShard(shards, name);
    std::memcpy(to.data, shard == nullptr ? from.data : At(from, shard->begin),
                to.num_bytes());
  }
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
    value.type.dims[0] = Static(shard.whole);
    Graph graph;
    graph.AddValue(value);
    StateStore whole(backend);
    RETURN_IF_ERROR(whole.Declare(graph));
    InitializeParameters(config, seed, whole);
    TakeShards(whole, {shard.parameter}, shards, local);
  }
  return absl::OkStatus();
}

absl::Status GatherWhole(const StateStore& local,
                         const std::vector<std::string>& names,
                         absl::Span<const Shard> shards, Communicator& ep,
                         Communicator& pp, StateStore* whole) {
  ASSIGN_OR_RETURN(const std::vector<int> holder,
                   FirstHolders(local, names, pp));
  std::vector<char> buffer;  // Of a tensor on its way to the first stage.
  for (size_t i = 0; i < names.size(); ++i) {
    const bool is_first = ep.rank() == 0;
    if (pp.rank() == holder[i]) {
      const TensorView& mine = local.Get(names[i]);
      const Shard* const shard = FindShard(shards, names[i]);
      char* to = nullptr;
      if (whole != nullptr) {
        to = static_cast<char*>(whole->Get(names[i]).data);
      } else if (is_first) {
        buffer.resize(mine.num_bytes() * (shard == nullptr ? 1 : ep.size()));
        to = buffer.data();
      }
      RETURN_IF_ERROR(GatherTensor(mine, shard, ep, to));
      if (is_first && holder[i] > 0) {
        const auto bytes = static_cast<int64_t>(buffer.size());
        RETURN_IF_ERROR(
            pp.Send({to, bytes / SizeOf(mine.dtype), mine.dtype}, /*to=*/0));
      }
    }
    if (!is_first || holder[i] == 0) continue;
    if (whole != nullptr) {
      const TensorView& to = whole->Get(names[i]);
      RETURN_IF_ERROR(
          pp.Receive({to.data, to.num_elements(), to.dtype}, holder[i]));
    }
    RETURN_IF_ERROR(pp.Barrier());
  }
  return absl::OkStatus();
}

}  // namespace strata
