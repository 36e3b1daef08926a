// The update of a training step: the second graph of step_graph.h.

#include <algorithm>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "absl/types/span.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/model/config.pb.h"
#include "core/model/gate.h"
#include "core/ops/collective.h"
#include "core/ops/elementwise.h"
#include "core/ops/expert_placement.h"
#include "core/ops/optimizer.h"
#include "core/parallel/mesh.h"
#include "core/passes/partition/partition_experts.h"
#include "core/tensor/dtype.h"
#include "training/config.pb.h"
#include "training/step_graph.h"
#include "training/sums/buckets.h"
#include "training/sums/owners.h"
#include "training/sums/sums_in_buckets.h"

namespace strata {
namespace {

void AddAll(Buckets buckets, absl::Span<const ValueId> states) {
  for (const ValueId state : states) buckets.Add(state);
  buckets.Flush();
}

// Each parameter from its owner to all of the group.
void SendParameters(GraphBuilder& b, absl::Span<const ValueId> parameters,
                    const Owners& owners, absl::string_view group) {
  const std::string to(group);
  for (int owner = 0; owner < owners.num_ranks(); ++owner) {
    Buckets owned(b, [&](absl::Span<const ValueId> bucket) {
      Broadcast(b, bucket, owner, to);
    });
    for (const ValueId id : parameters) {
      if (owners.Of(b.graph().value(id).name) == owner) owned.Add(id);
    }
    owned.Flush();
  }
}

// Gradients of this rank by layer of the model; -1 is what is in none.
using ByLayer = std::map<int64_t, std::vector<ValueId>>;

// The gradients of experts that can move, by the state of their placement.
struct MovableExperts {
  SlotTable slots;
  int64_t layer = -1;
  bool counted = true;  // In this rank's norm.
  std::vector<ValueId> grads;
};
using ByPlacement = std::map<std::string, MovableExperts>;

// The norms of each gate's experts on all ranks of ep, by layer.
ByLayer ExpertNorms(GraphBuilder& b, const ByPlacement& movable,
                    ValueId divisor) {
  ByLayer norms;
  for (const auto& [placement, experts] : movable) {
    if (!experts.counted) continue;
    norms[experts.layer].push_back(
        ExpertNorm(b, experts.grads, divisor, experts.slots, "ep"));
  }
  return norms;
}

// The norms of each layer's gradients, and outputs of them. The whole norm is
// one of these, so that nothing is read twice. `known`: norms that are parts of
// a layer's.
std::vector<ValueId> NormsByLayer(GraphBuilder& b, const ByLayer& grads,
                                  const ByLayer& known, LayerPart part,
                                  ValueId divisor) {
  std::vector<ValueId> norms;
  for (const auto& [layer, of_layer] : grads) {
    norms.push_back(GlobalNorm(b, of_layer, divisor));
    if (const auto it = known.find(layer); it != known.end()) {
      std::vector<ValueId> parts = it->second;
      parts.push_back(norms.back());
      norms.back() = GlobalNorm(b, parts, Fill(b, 1.0));
    }
    if (layer >= 0) b.Output(LayerNormName(layer, part), norms.back());
  }
  return norms;
}

// The norm of all ranks' gradients: of `common`, which the ranks of a stage
// hold alike, of the shards of each rank of ep, and of all stages; where sums
// are at the owners alone, of what each rank owns. A norm of norms, as each is
// the root of a sum of squares.
ValueId NormOverRanks(GraphBuilder& b, const ByLayer& common,
                      const ByLayer& sharded, const ByPlacement& movable,
                      const RankSums& sums, ValueId divisor) {
  const MeshShape& shape = sums.place.shape;
  const ValueId one = Fill(b, 1.0);
  const auto over_stages = [&](ValueId norm) {
    if (shape.pp == 1) return norm;
    return GlobalNorm(b, {AllGather(b, norm, shape.pp, "pp")}, one);
  };
  if (sums.to_owners) {
    // Of what the rank updates, which may be nothing.
    std::vector<ValueId> mine =
        NormsByLayer(b, common, {}, LayerPart::kCommon, divisor);
    for (const ValueId norm :
         NormsByLayer(b, sharded, {}, LayerPart::kShard, divisor)) {
      mine.push_back(norm);
    }
    if (mine.empty()) mine.push_back(Fill(b, 0.0));
    return over_stages(GlobalNorm(
        b,
        {AllGather(b, GlobalNorm(b, mine, one), shape.dp * shape.ep, "batch")},
        one));
  }
  ValueId norm =
      GlobalNorm(b,
                 NormsByLayer(b, common, ExpertNorms(b, movable, divisor),
                              LayerPart::kCommon, divisor),
                 one);
  if (!sharded.empty()) {
    const ValueId shards = GlobalNorm(
        b, NormsByLayer(b, sharded, {}, LayerPart::kShard, divisor), one);
    norm = GlobalNorm(b, {norm, AllGather(b, shards, shape.ep, "ep")}, one);
  }
  return over_stages(norm);
}

// Of "model.layers.3.mlp...": 3. Of others: -1.
int64_t LayerOf(absl::string_view parameter) {
  int64_t layer = -1;
  if (!absl::ConsumePrefix(&parameter, "model.layers.")) return layer;
  const std::vector<absl::string_view> parts = absl::StrSplit(parameter, '.');
  return absl::SimpleAtoi(parts[0], &layer) ? layer : -1;
}

// A parameter of the rank's.
struct Held {
  const Value* value = nullptr;
  bool tied = false;     // At the pipeline's other end too.
  bool counted = false;  // In this rank's norm.
};

// Those that have gradients, in order of stages: of the ranks that hold the
// same, all have one order. Each is counted at one rank of pp.
std::vector<Held> HeldParameters(absl::Span<const Graph* const> sources,
                                 const RankSums& sums) {
  const MeshPlace& place = sums.place;
  // Of the two stages on two ranks each rank counts one, its chunk 0.
  const size_t mine = place.pp_rank < place.shape.pp / 2 ? 0 : 1;
  const std::set<std::string> tied(sums.tied.begin(), sums.tied.end());
  std::set<std::string> known;  // Two stages of a rank may share some.
  std::vector<Held> all;
  for (size_t stage = 0; stage < sources.size(); ++stage) {
    const Graph& source = *sources[stage];
    for (const ValueId id : Parameters(source)) {
      const std::string& name = source.value(id).name;
      if (source.FindSource(GradName(name)) == kNone) continue;
      if (!known.insert(name).second) continue;
      Held held;
      held.value = &source.value(id);
      held.tied = tied.count(name) > 0;
      held.counted = place.shape.mirrored ? stage == mine
                                          : !held.tied || place.pp_rank == 0;
      all.push_back(held);
    }
  }
  return all;
}

}  // namespace

std::set<std::string> RankSums::LeavesToUpdate() const {
  if (!to_owners) return {};
  return {tied.begin(), tied.end()};
}

std::string LayerNormName(int64_t layer, LayerPart part) {
  return absl::StrCat(
      part == LayerPart::kCommon ? "grad_norm.layer." : "grad_norm.shard.",
      layer);
}

absl::StatusOr<Graph> BuildUpdateGraph(const Graph& gradients,
                                       const ModelConfig& model,
                                       const TrainConfig& train,
                                       const RankSums& sums, DType dtype) {
  return BuildUpdateGraph({&gradients}, model, train, sums, dtype);
}

absl::StatusOr<Graph> BuildUpdateGraph(absl::Span<const Graph* const> sources,
                                       const ModelConfig& model,
                                       const TrainConfig& train,
                                       const RankSums& sums, DType dtype) {
  GraphBuilder b(dtype);
  b.set_phase(Phase::kUpdate);
  const ValueId divisor = b.Input("divisor", dtype, {});
  const ValueId learning_rate = b.Input("learning_rate", dtype, {});
  const ValueId step = b.Input("step", DType::kI32, {});

  struct Trained {
    ValueId parameter;
    ValueId grad;
    std::string name;
    Dims dims;
  };
  std::vector<Trained> trained;
  std::map<std::string, const Shard*> shards;
  for (const Shard& shard : sums.shards) shards[shard.parameter] = &shard;
  const MeshPlace& place = sums.place;
  std::vector<ValueId> grads;       // That all ranks of the stage hold,
  std::vector<ValueId> sharded;     // of this rank's shards,
  std::vector<ValueId> at_ends;     // and of the first and the last stage.
  ByLayer counted, counted_shards;  // In this stage's norm.
  ByPlacement movable;
  std::vector<ValueId> common_parameters, sharded_parameters;
  const ParameterOwners owners =
      OwnersOf(sources, sums.shards, place, sums.shard_optimizer);
  const auto is_mine = [&](const std::string& name) {
    return owners.common.IsMine(name) || owners.shards.IsMine(name);
  };
  std::vector<ValueId> mine;  // Sums that this rank has, to owners.
  // Of grads and sharded, those to be summed here.
  std::vector<ValueId> unsummed, unsummed_shards;
  const std::set<std::string> left = sums.LeavesToUpdate();
  for (const Held& held : HeldParameters(sources, sums)) {
    const Dims& dims = held.value->type.dims;
    const std::string& name = held.value->name;
    trained.push_back({b.Parameter(name, dims),
                       b.State(GradName(name), dtype, dims), name, dims});
    const ValueId grad = trained.back().grad;
    // Whether this rank has its sum, and counts it.
    const bool summed = !sums.to_owners || is_mine(name);
    const bool counts = held.counted && summed;
    const bool sums_here = !sums.in_gradients || left.count(name) > 0;
    if (summed) mine.push_back(grad);
    if (const auto it = shards.find(name); it != shards.end()) {
      const Shard& shard = *it->second;
      sharded.push_back(grad);
      if (sums_here) unsummed_shards.push_back(grad);
      sharded_parameters.push_back(trained.back().parameter);
      if (shard.placement.empty()) {
        if (counts) counted_shards[LayerOf(name)].push_back(grad);
        continue;
      }
      MovableExperts& experts = movable[shard.placement];
      experts.slots.experts = shard.whole;
      experts.slots.ranks = place.shape.ep;
      experts.layer = LayerOf(name);
      experts.counted = held.counted;
      experts.grads.push_back(grad);
      continue;
    }
    grads.push_back(grad);
    if (sums_here) unsummed.push_back(grad);
    common_parameters.push_back(trained.back().parameter);
    if (held.tied) at_ends.push_back(grad);
    if (counts) counted[LayerOf(name)].push_back(grad);
  }
  std::vector<ValueId> loads;  // Of the gates.
  for (const Graph* const source : sources) {
    for (const Value& value : source->values()) {
      if (GateOfLoad(value.name).empty()) continue;
      loads.push_back(b.State(value.name, DType::kI32, value.type.dims));
    }
  }
  if (sums.over_ranks && sums.to_owners) {
    // Before, as the owners of the two stages differ.
    AddAll(SumsToAll(b, "ends"), at_ends);
    AddAll(SumsToOwners(b, owners.common, "batch"), unsummed);
    if (place.shape.dp > 1) {
      AddAll(SumsToOwners(b, owners.shards, "dp"), unsummed_shards);
    }
  } else if (sums.over_ranks) {
    AddAll(SumsToAll(b, "batch"), unsummed);
    AddAll(SumsToAll(b, "ends"), at_ends);
    if (place.shape.dp > 1) AddAll(SumsToAll(b, "dp"), unsummed_shards);
  }
  if (sums.over_ranks) AddAll(SumsToAll(b, "batch"), loads);
  if (place.shape.mirrored && sums.to_owners) {
    AddAll(SumsToAll(b, "mirror"), mine);
    AddAll(SumsToAll(b, "mirror"), loads);
  } else if (place.shape.mirrored) {
    for (const auto* const states : {&grads, &sharded, &loads}) {
      AddAll(SumsToAll(b, "mirror"), *states);
    }
  }
  for (auto& [placement, experts] : movable) {
    const int64_t slots =
        experts.slots.experts + experts.slots.ranks * place.slots.spare;
    experts.slots.table = b.State(placement, DType::kI32, {Static(slots)});
    if (place.slots.spare > 0) {
      SumCopies(b, experts.grads, experts.slots, "ep");
    }
  }
  const ValueId norm =
      NormOverRanks(b, counted, counted_shards, movable, sums, divisor);
  b.Output("grad_norm", norm);

  AdamWOptions options;
  options.beta1 = train.beta1();
  options.beta2 = train.beta2();
  options.eps = train.adam_eps();
  options.max_norm = train.max_grad_norm();
  for (const Trained& t : trained) {
    if (!is_mine(t.name)) continue;
    GraphBuilder::Scope scope(b, t.name);
    // Vectors are gains of norms: decay would pull them from 1.
    options.weight_decay = t.dims.size() < 2 ? 0 : train.weight_decay();
    const ValueId m = b.State(absl::StrCat("adam.m.", t.name), dtype, t.dims);
    const ValueId v = b.State(absl::StrCat("adam.v.", t.name), dtype, t.dims);
    AdamW(b, t.parameter, m, v, t.grad, norm, divisor, learning_rate, step,
          options);
  }
  const auto send = [&](absl::Span<const ValueId> parameters, const Owners& of,
                        absl::string_view group) {
    if (of.num_ranks() == 1) return;
    if (sums.to_owners) {
      AddAll(CopiesFromOwners(b, of, group), parameters);
    } else {
      SendParameters(b, parameters, of, group);
    }
  };
  send(common_parameters, owners.common, "batch");
  send(sharded_parameters, owners.shards, "dp");
  for (const ValueId load : loads) {
    // Copied: adding a state moves the graph's values.
    const std::string gate(GateOfLoad(b.graph().value(load).name));
    GraphBuilder::Scope scope(b, gate);
    ControlLoad(b, model, gate, load);
  }
  return b.Finish();
}

}  // namespace strata
