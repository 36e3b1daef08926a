#include "training/step_graph.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/base/status_macros.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/model/config.pb.h"
#include "core/model/decoder.h"
#include "core/model/gate.h"
#include "core/model/moe.h"
#include "core/ops/elementwise.h"
#include "core/ops/optimizer.h"
#include "core/parallel/mesh.h"
#include "core/passes/add_in_stores.h"
#include "core/passes/autodiff.h"
#include "core/passes/bf16_training.h"
#include "core/passes/chunk_losses.h"
#include "core/passes/partition/cut_graph.h"
#include "core/passes/partition/partition_experts.h"
#include "core/passes/slot_dots.h"
#include "core/tensor/dtype.h"
#include "training/config.pb.h"
#include "training/sums/buckets.h"
#include "training/sums/owners.h"
#include "training/sums/sums_in_buckets.h"

namespace strata {
namespace {

// The prefix of values that stages send each other.
constexpr absl::string_view kStage = "stage";

// The values that `routers` name, in the partitioned graph.
void MapRouters(const std::vector<ValueId>& value,
                std::vector<RouterValues>& routers) {
  const auto map = [&](ValueId& id) {
    if (id != kNone) id = value[id];
  };
  for (RouterValues& router : routers) {
    for (ValueId* const id : {&router.tokens, &router.expert, &router.offset,
                              &router.slot_row, &router.output}) {
      map(*id);
    }
    for (GateLoss& term : router.losses) map(term.loss);
  }
}

// A rank's part of the decoder's graph; `step` without gradients.
struct Forward {
  StepGraph step;
  Decoder decoder;
};

void MapDecoder(const std::vector<ValueId>& value, Decoder& decoder) {
  if (decoder.loss != kNone) decoder.loss = value[decoder.loss];
  if (decoder.total_loss != kNone) {
    decoder.total_loss = value[decoder.total_loss];
  }
  MapRouters(value, decoder.routers);
  MapRouters(value, decoder.module_routers);
}

// The names of the parameters that the first stage and the last both hold.
absl::StatusOr<std::vector<std::string>> TiedParameters(
    const std::vector<GraphPiece>& stages) {
  std::map<std::string, std::vector<size_t>> holders;
  for (size_t stage = 0; stage < stages.size(); ++stage) {
    for (const Value& value : stages[stage].graph.values()) {
      if (value.role == Role::kParameter) holders[value.name].push_back(stage);
    }
  }
  std::vector<std::string> tied;
  for (const auto& [name, of] : holders) {
    if (of.size() == 1) continue;
    if (of != std::vector<size_t>{0, stages.size() - 1}) {
      return absl::UnimplementedError(
          absl::StrCat(name, " is read by ", of.size(),
                       " stages of the pipeline; only the "
                       "first and the last can share one"));
    }
    tied.push_back(name);
  }
  return tied;
}

// Cuts the stage of `place` out of the whole.
absl::Status TakeStage(const MeshPlace& place, int num_layers,
                       Forward& forward) {
  const Graph whole = std::move(forward.step.graph);
  ASSIGN_OR_RETURN(const std::vector<int> stage_of,
                   BalancedStages(whole, num_layers, place.shape.pp));
  ASSIGN_OR_RETURN(std::vector<GraphPiece> stages,
                   CutGraph(whole, stage_of, place.shape.pp, kStage));
  ASSIGN_OR_RETURN(forward.step.tied, TiedParameters(stages));
  const auto message = [&](ValueId id, int stage) {
    StageMessage m = {stage, PieceValueName(kStage, id), ""};
    if (IsFloat(whole.value(id).type.dtype)) {
      // One for each reader of a value that several read.
      m.grad = absl::StrCat(m.value, ".grad.", std::max(stage, place.pp_rank));
    }
    return m;
  };
  const auto maker = [&](ValueId id) {
    return stage_of[whole.value(id).producer];
  };
  for (int stage = 0; stage < place.shape.pp; ++stage) {
    for (const ValueId id : stages[stage].imports) {
      if (stage == place.pp_rank) {
        forward.step.received.push_back(message(id, maker(id)));
      } else if (maker(id) == place.pp_rank) {
        forward.step.sent.push_back(message(id, stage));
      }
    }
  }
  GraphPiece& mine = stages[place.pp_rank];
  MapDecoder(mine.value, forward.decoder);
  forward.step.graph = std::move(mine.graph);
  std::vector<Shard> shards;  // Of other stages' parameters no longer.
  for (Shard& shard : forward.step.shards) {
    if (forward.step.graph.FindSource(shard.parameter) == kNone) continue;
    shards.push_back(std::move(shard));
  }
  forward.step.shards = std::move(shards);
  return absl::OkStatus();
}

absl::StatusOr<Forward> BuildForward(const ModelConfig& model,
                                     const DecoderOptions& options, DType dtype,
                                     const MeshPlace& place) {
  GraphBuilder b(dtype);
  Forward forward;
  forward.decoder = BuildDecoder(b, model, options);
  ASSIGN_OR_RETURN(forward.step.graph, b.Finish());
  if (place.shape.ep > 1) {
    ASSIGN_OR_RETURN(PartitionedGraph part,
                     PartitionExperts(forward.step.graph, place.shape.ep,
                                      place.ep_rank, place.slots));
    forward.step.graph = std::move(part.graph);
    forward.step.shards = std::move(part.shards);
    MapDecoder(part.value, forward.decoder);
  }
  if (place.shape.pp > 1) {
    RETURN_IF_ERROR(
        TakeStage(place, static_cast<int>(model.num_layers()), forward));
  }
  forward.step.routers = forward.decoder.routers;
  return forward;
}

// Where differentiation of a stage begins: its loss, and what other stages
// found for the values that it sent.
std::vector<Seed> StageSeeds(GraphBuilder& b, const Forward& forward,
                             DType dtype) {
  std::vector<Seed> seeds;
  if (forward.decoder.total_loss != kNone) {
    seeds.push_back({forward.decoder.total_loss, Fill(b, 1.0)});
  }
  for (const StageMessage& m : forward.step.sent) {
    if (m.grad.empty()) continue;
    const ValueId value = b.graph().outputs().at(m.value);
    // Copied: adding an input moves the graph's values.
    const Dims dims = b.type(value).dims;
    seeds.push_back({value, b.Input(m.grad, dtype, dims)});
  }
  return seeds;
}

// A message has a cost of its own: some tens of microseconds, in which as many
// bytes could go.
constexpr int64_t kSmallBucket = int64_t{16} << 10;
constexpr int kSmallBuckets = 16;

// Of a bucket of gradients of the parameters of `owners`.
int64_t BucketElements(const Graph& graph, const Owners& owners, bool small) {
  if (!small) return Buckets::kMaxElements;
  int64_t all = 0;
  for (const ValueId id : Parameters(graph)) {
    const Value& value = graph.value(id);
    if (owners.Has(value.name)) all += value.type.max_elements();
  }
  return std::clamp(all / kSmallBuckets, kSmallBucket, Buckets::kMaxElements);
}

}  // namespace

ParameterOwners OwnersOf(absl::Span<const Graph* const> sources,
                         absl::Span<const Shard> shards, const MeshPlace& place,
                         bool shard_optimizer) {
  std::vector<Owners::Parameter> common, sharded;
  std::set<std::string> known;  // Two stages of a rank may share some.
  for (const Graph* const source : sources) {
    for (const ValueId id : Parameters(*source)) {
      const Value& value = source->value(id);
      if (!known.insert(value.name).second) continue;
      const bool is_shard = std::any_of(
          shards.begin(), shards.end(),
          [&](const Shard& shard) { return shard.parameter == value.name; });
      (is_shard ? sharded : common)
          .push_back({value.name, value.type.max_elements()});
    }
  }
  const MeshShape& shape = place.shape;
  return {Owners(std::move(common), shard_optimizer ? shape.dp * shape.ep : 1,
                 place.dp_rank * shape.ep + place.ep_rank),
          Owners(std::move(sharded), shard_optimizer ? shape.dp : 1,
                 place.dp_rank)};
}

std::vector<ValueId> Parameters(const Graph& graph) {
  std::vector<ValueId> parameters;
  for (size_t id = 0; id < graph.values().size(); ++id) {
    if (graph.value(id).role == Role::kParameter) parameters.push_back(id);
  }
  return parameters;
}

std::string GradName(absl::string_view parameter) {
  return absl::StrCat("grad.", parameter);
}

absl::StatusOr<StepGraph> BuildGradientGraph(
    const ModelConfig& model, int64_t num_sequences, int64_t seq_len,
    DType dtype, RouteSource route, const MeshPlace& place,
    const GradientSums& sums, bool fused) {
  DecoderOptions options;
  options.fused = fused;
  options.mode = DecoderOptions::Mode::kTrain;
  options.route = route;
  options.max_tokens = num_sequences * seq_len;
  options.max_sequences = num_sequences;
  ASSIGN_OR_RETURN(Forward forward, BuildForward(model, options, dtype, place));
  GraphBuilder b(std::move(forward.step.graph), dtype);
  const Decoder& decoder = forward.decoder;

  std::vector<ValueId> wanted = Parameters(b.graph());
  std::map<ValueId, std::string> received;  // Values and what to call theirs.
  for (const StageMessage& m : forward.step.received) {
    if (m.grad.empty()) continue;
    wanted.push_back(b.graph().FindSource(m.value));
    received[wanted.back()] = m.grad;
  }
  b.set_phase(Phase::kInputGrad);
  const std::vector<Seed> seeds = StageSeeds(b, forward, dtype);
  const ValueId keep = b.Input("keep", dtype, {});
  std::set<std::string> sharded;
  for (const Shard& shard : forward.step.shards) {
    sharded.insert(shard.parameter);
  }
  const ParameterOwners owners =
      sums.owners != nullptr
          ? *sums.owners
          : OwnersOf({&b.graph()}, forward.step.shards, place, sums.to_owners);
  const auto sums_over = [&](absl::string_view group, const Owners& of) {
    const int64_t elements = BucketElements(b.graph(), of, sums.small_buckets);
    return sums.to_owners ? SumsToOwners(b, of, group, elements)
                          : SumsToAll(b, group, elements);
  };
  Buckets common_sums = sums_over("batch", owners.common);
  Buckets shard_sums = sums_over("dp", owners.shards);
  // Each as soon as it is whole, so that not all gradients live to the end.
  const auto accumulate = [&](ValueId parameter, ValueId grad) {
    if (const auto it = received.find(parameter); it != received.end()) {
      b.Output(it->second, grad);
      received.erase(it);
      return;
    }
    b.set_phase(Phase::kUpdate);
    b.set_scope("accumulate");
    // Copied: adding a state moves the graph's values.
    const Value value = b.graph().value(parameter);
    const ValueId sum = b.State(GradName(value.name), dtype, value.type.dims);
    Accumulate(b, sum, grad, keep);
    if (!sums.made || sums.elsewhere.count(value.name) > 0) return;
    if (sharded.count(value.name) == 0) {
      common_sums.Add(sum);
    } else if (place.shape.dp > 1) {
      shard_sums.Add(sum);
    }
  };
  RETURN_IF_ERROR(Differentiate(b, seeds, wanted, accumulate).status());
  common_sums.Flush();
  shard_sums.Flush();
  if (!received.empty()) {
    return absl::InternalError(absl::StrCat("the loss does not depend on ",
                                            received.begin()->second,
                                            ", which another stage waits for"));
  }
  b.set_phase(Phase::kUpdate);
  b.set_scope("accumulate");
  for (const auto* const routers :
       {&decoder.routers, &decoder.module_routers}) {
    for (const RouterValues& router : *routers) {
      if (router.offset == kNone) continue;  // Of another stage.
      AccumulateCounts(b,
                       b.State(LoadName(router.gate), DType::kI32,
                               {Static(router.num_experts + 1)}),
                       router.offset, keep);
    }
  }
  ASSIGN_OR_RETURN(forward.step.graph, b.Finish());
  if (fused) {
    AddedInStores added = AddInStores(forward.step.graph);
    forward.step.graph = std::move(added.graph);
    MapRouters(added.value, forward.step.routers);
  }
  return std::move(forward.step);
}

absl::StatusOr<StepGraph> BuildEvaluationGraph(const ModelConfig& model,
                                               int64_t num_sequences,
                                               int64_t seq_len, DType dtype,
                                               RouteSource route,
                                               const MeshPlace& place) {
  DecoderOptions options;
  options.mode = DecoderOptions::Mode::kEvaluate;
  options.route = route;
  options.max_tokens = num_sequences * seq_len;
  options.max_sequences = num_sequences;
  ASSIGN_OR_RETURN(Forward forward, BuildForward(model, options, dtype, place));
  return std::move(forward.step);
}

StepGraph InLessMemory(StepGraph step) {
  ChunkedLosses chunked = ChunkLosses(UseSlotDots(step.graph));
  step.graph = std::move(chunked.graph);
  MapRouters(chunked.value, step.routers);
  return step;
}

absl::StatusOr<StepGraph> InBf16(StepGraph step,
                                 const std::set<std::string>& weights,
                                 WeightState state) {
  if (weights.empty()) return step;
  RETURN_IF_ERROR(CheckReadersTakeBf16(step.graph, weights));
  Bf16Gradients narrow = GradientsInBf16(step.graph, weights, state);
  step.graph = std::move(narrow.graph);
  MapRouters(narrow.value, step.routers);
  return step;
}

absl::StatusOr<std::vector<GraphPiece>> SplitPhases(const Graph& gradients) {
  std::vector<int> piece_of;
  for (const Node& node : gradients.nodes()) {
    piece_of.push_back(node.phase == Phase::kForward     ? 0
                       : node.phase == Phase::kInputGrad ? 1
                                                         : 2);
  }
  return CutGraph(gradients, piece_of, /*num_pieces=*/3, "phase");
}

absl::StatusOr<std::vector<GraphPiece>> SplitForward(const Graph& gradients) {
  std::vector<int> piece_of;
  for (const Node& node : gradients.nodes()) {
    piece_of.push_back(node.phase == Phase::kForward ? 0 : 1);
  }
  return CutGraph(gradients, piece_of, /*num_pieces=*/2, "phase");
}

}  // namespace strata
