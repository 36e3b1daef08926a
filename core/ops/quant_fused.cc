#include "core/ops/quant_fused.h"

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/ops/fused_attention.h"
#include "core/ops/fused_experts.h"
#include "core/ops/fused_latent.h"
#include "core/ops/operand_checks.h"
#include "core/ops/packed_cache.h"
#include "core/quant/packed_rows.h"
#include "core/tensor/dtype.h"

namespace strata {
namespace {

// Rows of a weight: of experts', of each.
int64_t Rows(const OpView& op, int input) {
  const Dims& dims = op.type(input).dims;
  return dims.size() < 2 ? 0 : dims[dims.size() - 2].bound;
}
template <int kInput>
int64_t ColumnsOf(const OpView& op) {
  return op.type(kInput).dims.back().bound;
}
template <int kInput>
int64_t HalfTheRowsOf(const OpView& op) {
  return Rows(op, kInput) / 2;
}
int64_t ColumnsOfQueries(const OpView& op) {
  return op.has(kLatentWqDown) ? Rows(op, kLatentWqDown)
                               : ColumnsOf<kLatentX>(op);
}
int64_t ColumnsOfValues(const OpView& op) {
  return op.attrs.Int("num_heads") * op.attrs.Int("value");
}
// Of attention over heads: values of all query heads.
int64_t ColumnsOfHeads(const OpView& op) {
  return op.attrs.Int("num_heads") *
         (ColumnsOf<2>(op) / op.attrs.Int("num_kv_heads"));
}

// The same where the cache is packed.
int64_t ColumnsOfPackedHeads(const OpView& op) {
  return op.attrs.Int("num_heads") * op.attrs.Int("value_dim");
}

// The graph with weights of the plain operator beside the packed ones, and its
// inputs.
struct PlainView {
  Graph graph;
  std::vector<ValueId> inputs;
};

absl::StatusOr<PlainView> Widened(const OpView& op, const QuantFused& twin) {
  PlainView view = {op.graph, {op.inputs.begin(), op.inputs.end()}};
  for (const QuantWeight& weight : twin.weights) {
    if (!op.has(weight.input) || op.type(weight.input).dtype != DType::kU8) {
      continue;
    }
    Value value;
    value.type = op.type(weight.input);
    const int64_t columns = weight.columns(op);
    const int64_t bytes = value.type.dims.back().bound;
    if (value.type.rank() < 2 || !FormatOfRow(bytes, columns).has_value()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "input ", weight.input, " is ", ToText(op.graph, value.type),
          "; want packed rows of ", columns, " columns"));
    }
    value.type.dtype = DType::kF32;
    value.type.dims.back() = Static(columns);
    view.inputs[weight.input] = view.graph.AddValue(std::move(value));
  }
  return view;
}

template <const OpDef& plain>
absl::StatusOr<std::vector<ValueType>> Infer(const OpView& op) {
  ASSIGN_OR_RETURN(const PlainView view, Widened(op, *FindQuantFused(plain)));
  return plain.infer({view.graph, view.inputs, op.outputs, op.attrs});
}

template <const OpDef& plain>
double Flops(const OpView& op, const Binding& binding) {
  const auto view = Widened(op, *FindQuantFused(plain));
  if (!view.ok()) return 0;
  return plain.flops({view->graph, view->inputs, op.outputs, op.attrs},
                     binding);
}

// The plain operator's count of what it does not read or write holds for packed
// rows as they are.
template <const OpDef& plain>
void CountBytes(const OpView& op, const Binding& binding, Cost& cost) {
  plain.bytes(op, binding, cost);
}

}  // namespace

const OpDef kQuantRoutedExperts = {"QuantRoutedExperts",
                                   Infer<kRoutedExperts>,
                                   nullptr,
                                   Flops<kRoutedExperts>,
                                   {},
                                   CountBytes<kRoutedExperts>};
const OpDef kQuantNormMlp = {
    "QuantNormMlp",      Infer<kNormMlp>, nullptr, Flops<kNormMlp>, {},
    CountBytes<kNormMlp>};
const OpDef kQuantNormQkv = {"QuantNormQkv",
                             Infer<kNormQkv>,
                             nullptr,
                             Flops<kNormQkv>,
                             /*mutates=*/{kQkvKCache, kQkvVCache},
                             CountBytes<kNormQkv>};
const OpDef kQuantCachedAttendProject = {"QuantCachedAttendProject",
                                         Infer<kCachedAttendProject>,
                                         nullptr,
                                         Flops<kCachedAttendProject>,
                                         /*mutates=*/{},
                                         CountBytes<kCachedAttendProject>};
const OpDef kQuantPagedAttendProject = {"QuantPagedAttendProject",
                                        Infer<kPagedAttendProject>,
                                        nullptr,
                                        Flops<kPagedAttendProject>,
                                        /*mutates=*/{},
                                        CountBytes<kPagedAttendProject>};
const OpDef kQuantPackedAttendProject = {"QuantPackedAttendProject",
                                         Infer<kPackedAttendProject>,
                                         nullptr,
                                         Flops<kPackedAttendProject>,
                                         /*mutates=*/{},
                                         CountBytes<kPackedAttendProject>};
const OpDef kQuantLatentQkv = {
    "QuantLatentQkv",           Infer<kLatentQkv>,     nullptr,
    Flops<kLatentQkv>,
    /*mutates=*/{kLatentCache}, CountBytes<kLatentQkv>};
const OpDef kQuantCachedLatentAttendProject = {
    "QuantCachedLatentAttendProject",
    Infer<kCachedLatentAttendProject>,
    nullptr,
    Flops<kCachedLatentAttendProject>,
    /*mutates=*/{},
    CountBytes<kCachedLatentAttendProject>};
const OpDef kQuantPagedLatentAttendProject = {
    "QuantPagedLatentAttendProject",
    Infer<kPagedLatentAttendProject>,
    nullptr,
    Flops<kPagedLatentAttendProject>,
    /*mutates=*/{},
    CountBytes<kPagedLatentAttendProject>};
const OpDef kQuantPackedLatentAttendProject = {
    "QuantPackedLatentAttendProject",
    Infer<kPackedLatentAttendProject>,
    nullptr,
    Flops<kPackedLatentAttendProject>,
    /*mutates=*/{},
    CountBytes<kPackedLatentAttendProject>};

bool QuantFused::MayBePacked(int input) const {
  return std::any_of(
      weights.begin(), weights.end(),
      [input](const QuantWeight& weight) { return weight.input == input; });
}

const QuantFused* FindQuantFused(const OpDef& plain) {
  // Where the projection lies behind the inputs of attention, over latents and
  // over heads.
  constexpr int kOfCached = 4 + 1, kOfPaged = 5 + 1;
  constexpr int kOfPacked = kNumPackedInputs + 1;
  constexpr int kOfCachedHeads = 5 + 1, kOfPagedHeads = 6 + 1;
  static const auto* const all = new std::vector<QuantFused>{
      {&kQuantRoutedExperts,
       &kRoutedExperts,
       {{kRoutedGateUp, ColumnsOf<kRoutedH>},
        {kRoutedDown, HalfTheRowsOf<kRoutedGateUp>},
        {kRoutedSharedUp, ColumnsOf<kRoutedH>},
        {kRoutedSharedDown, HalfTheRowsOf<kRoutedSharedUp>}}},
      {&kQuantNormMlp,
       &kNormMlp,
       {{kMlpGateUp, ColumnsOf<kMlpH>}, {kMlpDown, HalfTheRowsOf<kMlpGateUp>}}},
      {&kQuantNormQkv,
       &kNormQkv,
       {{kQkvWq, ColumnsOf<kQkvX>},
        {kQkvWk, ColumnsOf<kQkvX>},
        {kQkvWv, ColumnsOf<kQkvX>}}},
      {&kQuantCachedAttendProject,
       &kCachedAttendProject,
       {{kOfCachedHeads, ColumnsOfHeads}}},
      {&kQuantPagedAttendProject,
       &kPagedAttendProject,
       {{kOfPagedHeads, ColumnsOfHeads}}},
      {&kQuantPackedAttendProject,
       &kPackedAttendProject,
       {{kOfPacked, ColumnsOfPackedHeads}}},
      {&kQuantLatentQkv,
       &kLatentQkv,
       {{kLatentWqDown, ColumnsOf<kLatentX>},
        {kLatentWq, ColumnsOfQueries},
        {kLatentWkv, ColumnsOf<kLatentX>}}},
      {&kQuantCachedLatentAttendProject,
       &kCachedLatentAttendProject,
       {{kOfCached, ColumnsOfValues}}},
      {&kQuantPagedLatentAttendProject,
       &kPagedLatentAttendProject,
       {{kOfPaged, ColumnsOfValues}}},
      {&kQuantPackedLatentAttendProject,
       &kPackedLatentAttendProject,
       {{kOfPacked, ColumnsOfValues}}},
  };
  for (const QuantFused& twin : *all) {
    if (twin.plain->name == plain.name) return &twin;
  }
  return nullptr;
}

}  // namespace strata
