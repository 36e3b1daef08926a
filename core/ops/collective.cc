#include "core/ops/collective.h"

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/graph/attrs.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/tensor/dtype.h"

namespace strata {
namespace {

absl::StatusOr<std::vector<ValueType>> InferBucket(const OpView& op) {
  const size_t count = op.inputs.size();
  if (count < 1 || count > kMaxBucketStates) {
    return absl::InvalidArgumentError(absl::StrCat(
        "there are ", count, " states; want 1 to ", kMaxBucketStates));
  }
  const DType dtype = op.type(0).dtype;
  if (dtype != DType::kF32 && dtype != DType::kF64 && dtype != DType::kI32) {
    return absl::InvalidArgumentError(absl::StrCat(
        "state 0 is ", ToText(op.graph, op.type(0)), "; want F32, F64 or I32"));
  }
  for (size_t i = 1; i < count; ++i) {
    const ValueType& type = op.type(static_cast<int>(i));
    if (type.dtype == dtype) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("state ", i, " is ", ToText(op.graph, type), "; want ",
                     Name(dtype), " like state 0"));
  }
  return std::vector<ValueType>{};
}

// Attribute "owner" has a number for each state: "0,2,1".
absl::StatusOr<std::vector<ValueType>> InferOwned(const OpView& op) {
  const std::string& owners = op.attrs.String("owner");
  const auto count =
      static_cast<size_t>(std::count(owners.begin(), owners.end(), ',')) + 1;
  if (count != op.inputs.size()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "there are ", op.inputs.size(), " states and ", count, " owners"));
  }
  return InferBucket(op);
}

// Those that a node has are updated.
std::vector<int> EveryInput() {
  std::vector<int> inputs(kMaxBucketStates);
  std::iota(inputs.begin(), inputs.end(), 0);
  return inputs;
}

double Flops(const OpView& op, const Binding& binding) { return 0; }

void Bytes(const OpView& op, const Binding& binding, Cost& cost) {
  double bytes = 0;
  for (size_t i = 0; i < op.inputs.size(); ++i) {
    bytes += strata::Bytes(op.type(static_cast<int>(i)), binding);
  }
  cost.bytes_read = cost.bytes_written = cost.bytes_on_wire = bytes;
}

absl::StatusOr<std::vector<ValueType>> InferAllGather(const OpView& op) {
  if (!op.has(0)) return absl::InvalidArgumentError("there is no x");
  const ValueType& x = op.type(0);
  const int64_t ranks = op.attrs.Int("ranks");
  if (ranks < 1 || (x.rank() > 0 && x.dims[0].ragged())) {
    return absl::InvalidArgumentError(
        absl::StrCat("x is ", ToText(op.graph, x), " of ", ranks,
                     " ranks; want static extents and 1 rank or more"));
  }
  Dims dims = {Static(ranks)};
  dims.insert(dims.end(), x.dims.begin(), x.dims.end());
  return std::vector<ValueType>{{x.dtype, dims}};
}

void GatherBytes(const OpView& op, const Binding& binding, Cost& cost) {
  cost.bytes_on_wire = strata::Bytes(op.output_type(0), binding) -
                       strata::Bytes(op.type(0), binding);
}

void AddBucket(GraphBuilder& b, const OpDef& op,
               absl::Span<const ValueId> states, Attrs attrs) {
  const Phase phase = b.phase();
  b.set_phase(Phase::kUpdate);
  b.Add(op, states, std::move(attrs));
  b.set_phase(phase);
}

void AddOwned(GraphBuilder& b, const OpDef& op,
              absl::Span<const ValueId> states, absl::Span<const int> owner,
              int ranks, absl::string_view group, bool beside) {
  const std::string name(group), owners = absl::StrJoin(owner, ",");
  const int64_t num_ranks = ranks;
  AddBucket(
      b, op, states,
      beside
          ? Attrs({{"group", name},
                   {"ranks", num_ranks},
                   {"owner", owners},
                   {"beside", int64_t{1}}})
          : Attrs({{"group", name}, {"ranks", num_ranks}, {"owner", owners}}));
}

}  // namespace

const OpDef kAllReduce = {"AllReduce",
                          InferBucket,
                          nullptr,
                          Flops,
                          /*mutates=*/EveryInput(),
                          Bytes};
const OpDef kBroadcast = {"Broadcast",
                          InferBucket,
                          nullptr,
                          Flops,
                          /*mutates=*/EveryInput(),
                          Bytes};
const OpDef kReduceToOwners = {
    "ReduceToOwners",         InferOwned, nullptr, Flops,
    /*mutates=*/EveryInput(), Bytes};
const OpDef kGatherFromOwners = {
    "GatherFromOwners",       InferOwned, nullptr, Flops,
    /*mutates=*/EveryInput(), Bytes};
const OpDef kAllGather = {"AllGather", InferAllGather, nullptr,
                          Flops,       /*mutates=*/{}, GatherBytes};

void AllReduce(GraphBuilder& b, absl::Span<const ValueId> states,
               absl::string_view group, bool beside) {
  const std::string name(group);
  AddBucket(b, kAllReduce, states,
            beside ? Attrs({{"group", name}, {"beside", int64_t{1}}})
                   : Attrs({{"group", name}}));
}

void Broadcast(GraphBuilder& b, absl::Span<const ValueId> states, int root,
               absl::string_view group) {
  AddBucket(b, kBroadcast, states,
            {{"group", std::string(group)}, {"root", int64_t{root}}});
}

void ReduceToOwners(GraphBuilder& b, absl::Span<const ValueId> states,
                    absl::Span<const int> owner, int ranks,
                    absl::string_view group, bool beside) {
  AddOwned(b, kReduceToOwners, states, owner, ranks, group, beside);
}

void GatherFromOwners(GraphBuilder& b, absl::Span<const ValueId> states,
                      absl::Span<const int> owner, int ranks,
                      absl::string_view group) {
  AddOwned(b, kGatherFromOwners, states, owner, ranks, group,
           /*beside=*/false);
}

ValueId AllGather(GraphBuilder& b, ValueId x, int64_t ranks,
                  absl::string_view group) {
  return b.Add1(kAllGather, {x},
                {{"ranks", ranks}, {"group", std::string(group)}});
}

}  // namespace strata
