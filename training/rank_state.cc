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
#include "core/parallel/mesh.h"
#include "core/passes/partition/partition_experts.h"
#include "core/runtime/backend.h"
#include "core/runtime/state_store.h"
#include "core/tensor/tensor.h"

namespace strata {
namespace {

// Where in `whole` the rows of a shard are that begin at `begin`.
char* At(const TensorView& whole, int64_t begin) {
  return static_cast<char*>(whole.data) +
         whole.num_bytes() / whole.dim(0) * begin;
}

// What a rank holds of a tensor.
enum Part : int32_t { kNothing, kWhole, kShare };

// Of every rank and name, [ranks, names].
absl::StatusOr<std::vector<int32_t>> PartsOfRanks(
    const StateStore& local, const std::vector<std::string>& names,
    absl::Span<const Shard> shards, Communicator& world) {
  std::vector<int32_t> mine;
  for (const std::string& name : names) {
    mine.push_back(!local.Has(name)                     ? kNothing
                   : FindShard(shards, name) == nullptr ? kWhole
                                                        : kShare);
  }
  std::vector<int32_t> all(world.size() * names.size());
  const std::vector<int64_t> counts(world.size(), names.size());
  RETURN_IF_ERROR(world.AllGather(PayloadOf(absl::MakeSpan(mine)), counts,
                                  PayloadOf(absl::MakeSpan(all))));
  return all;
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
    if (shard == nullptr) {
      std::memcpy(to.data, from.data, to.num_bytes());
    } else {
      const char* const begin = At(from, shard->begin);
      std::memcpy(to.data, begin, At(from, shard->end) - begin);
    }
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
    value.type.dims[0] = Static(shard.whole);  // However many slots are here.
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
                         absl::Span<const Shard> shards, const Mesh& mesh,
                         StateStore* whole) {
  Communicator& world = mesh.world();
  ASSIGN_OR_RETURN(const std::vector<int32_t> parts,
                   PartsOfRanks(local, names, shards, world));
  for (size_t i = 0; i < names.size(); ++i) {
    // The first rank that has the tensor, or of each part of it, in order.
    std::vector<int> senders;
    for (int ep = 0; ep < mesh.shape().ep; ++ep) {
      for (int r = 0; r < world.size(); ++r) {
        const int32_t part = parts[r * names.size() + i];
        // Ranks of ep are innermost (core/parallel/mesh.h).
        if (part == kNothing || (part == kShare && r % mesh.shape().ep != ep)) {
          continue;
        }
        if (ep == 0 || part == kShare) senders.push_back(r);
        break;
      }
    }
    if (senders.empty()) {
      return absl::InternalError(absl::StrCat("no rank has ", names[i]));
    }
    for (size_t piece = 0; piece < senders.size(); ++piece) {
      const int sender = senders[piece];
      if (world.rank() == sender && sender > 0) {
        const TensorView& view = local.Get(names[i]);
        const Shard* const shard = FindShard(shards, names[i]);
        const int64_t spare =
            shard == nullptr ? 0
                             : view.num_elements() / view.dim(0) * shard->spare;
        RETURN_IF_ERROR(world.Send(
            {view.data, view.num_elements() - spare, view.dtype}, 0));
      }
      if (world.rank() > 0) continue;
      const TensorView& all = whole->Get(names[i]);
      const auto num_pieces = static_cast<int64_t>(senders.size());
      char* const to =
          static_cast<char*>(all.data) + all.num_bytes() / num_pieces * piece;
      if (sender > 0) {
        RETURN_IF_ERROR(world.Receive(
            {to, all.num_elements() / num_pieces, all.dtype}, sender));
      } else if (all.num_bytes() > 0) {
        std::memcpy(to, local.Get(names[i]).data, all.num_bytes() / num_pieces);
      }
    }
    // A message that nobody waits for is a copy.
    if (senders.size() > 1 || senders[0] > 0) RETURN_IF_ERROR(world.Barrier());
  }
  return absl::OkStatus();
}

}  // namespace strata
