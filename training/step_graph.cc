#include "training/step_graph.h"

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/model/config.pb.h"
#include "core/model/decoder.h"
#include "core/model/gate.h"
#include "core/ops/collective.h"
#include "core/ops/elementwise.h"
#include "core/ops/optimizer.h"
#include "core/passes/autodiff.h"
#include "training/config.pb.h"

namespace strata {
namespace {

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

// Makes each state its sum over the ranks of a batch. Buckets, as a message has
// a cost of its own; not too large, as each is copied.
void SumInBuckets(GraphBuilder& b, absl::Span<const ValueId> states) {
  constexpr int64_t kBucketElements = int64_t{4} << 20;
  std::vector<ValueId> bucket;
  int64_t elements = 0;
  const auto flush = [&] {
    if (!bucket.empty()) AllReduce(b, bucket, "batch");
    bucket.clear();
    elements = 0;
  };
  for (const ValueId state : states) {
    bucket.push_back(state);
    elements += static_cast<int64_t>(
        Elements(b.graph().value(state).type, /*binding=*/nullptr));
    if (elements >= kBucketElements || bucket.size() == kMaxBucketStates) {
      flush();
    }
  }
  flush();
}

}  // namespace

absl::StatusOr<StepGraph> BuildGradientGraph(const ModelConfig& model,
                                             int64_t num_sequences,
                                             int64_t seq_len, DType dtype,
                                             RouteSource route) {
  GraphBuilder b(dtype);
  DecoderOptions options;
  options.mode = DecoderOptions::Mode::kTrain;
  options.route = route;
  options.max_tokens = num_sequences * seq_len;
  options.max_sequences = num_sequences;
  Decoder decoder = BuildDecoder(b, model, options);
  RETURN_IF_ERROR(b.status());

  const std::vector<ValueId> parameters = Parameters(b.graph());
  b.set_phase(Phase::kInputGrad);
  const Seed seed = {decoder.total_loss, Fill(b, 1.0)};
  const ValueId keep = b.Input("keep", dtype, {});
  // Each as soon as it is whole, so that not all gradients live to the end.
  const auto accumulate = [&](ValueId parameter, ValueId grad) {
    b.set_phase(Phase::kUpdate);
    b.set_scope("accumulate");
    // Copied: adding a state moves the graph's values.
    const Value value = b.graph().value(parameter);
    Accumulate(b, b.State(GradName(value.name), dtype, value.type.dims), grad,
               keep);
  };
  RETURN_IF_ERROR(Differentiate(b, {seed}, parameters, accumulate).status());
  b.set_phase(Phase::kUpdate);
  b.set_scope("accumulate");
  for (const auto* const routers :
       {&decoder.routers, &decoder.module_routers}) {
    for (const RouterValues& router : *routers) {
      AccumulateCounts(b,
                       b.State(LoadName(router.gate), DType::kI32,
                               {Static(router.num_experts + 1)}),
                       router.offset, keep);
    }
  }
  StepGraph step;
  step.routers = std::move(decoder.routers);
  ASSIGN_OR_RETURN(step.graph, b.Finish());
  return step;
}

absl::StatusOr<Graph> BuildUpdateGraph(const Graph& source,
                                       const ModelConfig& model,
                                       const TrainConfig& train,
                                       bool sum_over_ranks, DType dtype) {
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
  std::vector<ValueId> grads;
  for (const ValueId id : Parameters(source)) {
    const Value& value = source.value(id);
    if (source.FindSource(GradName(value.name)) == kNone) continue;
    const Dims& dims = value.type.dims;
    trained.push_back({b.Parameter(value.name, dims),
                       b.State(GradName(value.name), dtype, dims), value.name,
                       dims});
    grads.push_back(trained.back().grad);
  }
  std::vector<ValueId> loads;  // Of the gates.
  for (const Value& value : source.values()) {
    if (GateOfLoad(value.name).empty()) continue;
    loads.push_back(b.State(value.name, DType::kI32, value.type.dims));
  }
  if (sum_over_ranks) {
    SumInBuckets(b, grads);
    SumInBuckets(b, loads);
  }
  const ValueId norm = GlobalNorm(b, grads, divisor);
  b.Output("grad_norm", norm);

  AdamWOptions options;
  options.beta1 = train.beta1();
  options.beta2 = train.beta2();
  options.eps = train.adam_eps();
  options.max_norm = train.max_grad_norm();
  for (const Trained& t : trained) {
    GraphBuilder::Scope scope(b, t.name);
    // Vectors are gains of norms: decay would pull them from 1.
    options.weight_decay = t.dims.size() < 2 ? 0 : train.weight_decay();
    const ValueId m = b.State(absl::StrCat("adam.m.", t.name), dtype, t.dims);
    const ValueId v = b.State(absl::StrCat("adam.v.", t.name), dtype, t.dims);
    AdamW(b, t.parameter, m, v, t.grad, norm, divisor, learning_rate, step,
          options);
  }
  for (const ValueId load : loads) {
    // Copied: adding a state moves the graph's values.
    const std::string gate(GateOfLoad(b.graph().value(load).name));
    GraphBuilder::Scope scope(b, gate);
    ControlLoad(b, model, gate, load);
  }
  return b.Finish();
}

}  // namespace strata
