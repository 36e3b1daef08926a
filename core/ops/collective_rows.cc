#include "core/ops/collective_rows.h"

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/base/status_macros.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/ops/operand_checks.h"
#include "core/tensor/dtype.h"

namespace strata {
namespace {

using Types = absl::StatusOr<std::vector<ValueType>>;

constexpr int64_t kMaxRanks = 1 << 20;
constexpr int kPlanRows = 2;  // Of ExchangePlan's outputs.

double NoFlops(const OpView& op, const Binding& binding) { return 0; }

// --- ExchangePlan ---

Types InferPlan(const OpView& op) {
  RETURN_IF_ERROR(WantRank(op, 0, "offset", DType::kI32, 1));
  const Dim& offsets = op.type(0).dims[0];
  const int64_t ranks = op.attrs.Int("ranks");
  RETURN_IF_ERROR(WantInRange("ranks", ranks, 1, kMaxRanks));
  const int64_t experts = offsets.bound - 1;
  if (offsets.ragged() || experts < 1 || experts % ranks != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "there are ", experts, " experts; want a multiple of ranks = ", ranks));
  }
  const Dim own = Static(experts / ranks);
  return std::vector<ValueType>{{DType::kI32, {Static(ranks), own}},
                                {DType::kI32, {Static(own.bound + 1)}},
                                {DType::kI32, {}}};
}

// A count of each expert goes to its owner.
void PlanBytes(const OpView& op, const Binding& binding, Cost& cost) {
  cost.bytes_on_wire = Bytes(op.output_type(0), binding);
}

// --- SendRows, ReturnRows ---

// That input 0 is rows [<= ..., d], inputs 1 to 3 offset, count and a number of
// rows.
absl::Status WantExchange(const OpView& op, absl::string_view rows) {
  RETURN_IF_ERROR(WantFloat(op, 0, rows, 2));
  RETURN_IF_ERROR(WantRank(op, 1, "offset", DType::kI32, 1));
  const int64_t ranks = op.attrs.Int("ranks");
  RETURN_IF_ERROR(WantInRange("ranks", ranks, 1, kMaxRanks));
  const int64_t experts = op.type(1).dims[0].bound - 1;
  RETURN_IF_ERROR(WantType(
      op, 2, "count", {DType::kI32, {Static(ranks), Static(experts / ranks)}}));
  RETURN_IF_ERROR(WantType(op, 3, "rows", {DType::kI32, {}}));
  if (op.type(0).dims[0].ragged()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(rows, " is ", ToText(op.graph, op.type(0)),
                   "; want a ragged number of rows"));
}

Types InferSend(const OpView& op) {
  RETURN_IF_ERROR(WantExchange(op, "x"));
  const ValueType& x = op.type(0);
  const int64_t ranks = op.attrs.Int("ranks");
  RETURN_IF_ERROR(WantInRange("the number of rows", x.dims[0].bound, 0,
                              std::numeric_limits<int32_t>::max() / ranks));
  return std::vector<ValueType>{
      {x.dtype, {Ragged(ranks * x.dims[0].bound, op.inputs[3]), x.dims[1]}}};
}

Types InferReturn(const OpView& op) {
  RETURN_IF_ERROR(WantExchange(op, "y"));
  const ValueType& y = op.type(0);
  const int64_t max_rows = op.attrs.Int("max_rows");
  if (y.dims[0].bound != op.attrs.Int("ranks") * max_rows) {
    return absl::InvalidArgumentError(
        absl::StrCat("y is ", ToText(op.graph, y), "; want ",
                     op.attrs.Int("ranks"), " times ", max_rows, " rows"));
  }
  return std::vector<ValueType>{
      {y.dtype, {Ragged(max_rows, op.inputs[3]), y.dims[1]}}};
}

// A rank's own rows stay; loads are taken as even over owners.
void RowBytes(const OpView& op, const Binding& binding, Cost& cost) {
  const auto ranks = static_cast<double>(op.attrs.Int("ranks"));
  const bool sends = op.output_type(0).dims[0].bound > op.type(0).dims[0].bound;
  const ValueType& home = sends ? op.type(0) : op.output_type(0);
  cost.bytes_on_wire = Bytes(home, binding) * (ranks - 1) / ranks;
}

Attrs AttrsOf(int64_t ranks, absl::string_view group, int64_t max_rows) {
  return {
      {"ranks", ranks}, {"group", std::string(group)}, {"max_rows", max_rows}};
}

// The same exchange, for the gradient: `rows` are those of where it goes.
ValueId Back(GradContext& g, const OpDef& op) {
  const Dim from = g.For(0).type(g.input(0)).dims[0];
  const ValueId dout = g.OutputGrad(0);
  return g.For(0).Add1(
      op, {dout, g.input(1), g.input(2), from.count},
      AttrsOf(g.attrs().Int("ranks"), g.attrs().String("group"),
              g.attrs().Int("max_rows")));
}

void SendGradient(GradContext& g) {
  if (g.Needs(0)) g.Set(0, Back(g, kReturnRows));
}

void ReturnGradient(GradContext& g) {
  if (g.Needs(0)) g.Set(0, Back(g, kSendRows));
}

}  // namespace

const OpDef kExchangePlan = {"ExchangePlan", InferPlan,      nullptr,
                             NoFlops,        /*mutates=*/{}, PlanBytes};
const OpDef kSendRows = {"SendRows", InferSend,      SendGradient,
                         NoFlops,    /*mutates=*/{}, RowBytes};
const OpDef kReturnRows = {"ReturnRows", InferReturn,    ReturnGradient,
                           NoFlops,      /*mutates=*/{}, RowBytes};

RowExchange ExchangePlan(GraphBuilder& b, ValueId home_offset,
                         ValueId home_rows, int64_t ranks,
                         absl::string_view group) {
  const std::vector<ValueId> out =
      b.Add(kExchangePlan, {home_offset},
            {{"ranks", ranks}, {"group", std::string(group)}});
  return {home_offset, home_rows, out[0], out[1], out[kPlanRows], ranks};
}

ValueId SendRows(GraphBuilder& b, ValueId x, const RowExchange& exchange,
                 absl::string_view group) {
  if (!b.ok()) return kNone;
  return b.Add1(kSendRows,
                {x, exchange.home_offset, exchange.count, exchange.rows},
                AttrsOf(exchange.ranks, group, b.type(x).dims[0].bound));
}

bool MovesRows(const Node& node) {
  return node.op == &kSendRows || node.op == &kReturnRows;
}

Attrs BesideAttrs(const Attrs& exchange) {
  return {{"ranks", exchange.Int("ranks")},
          {"group", exchange.String("group")},
          {"max_rows", exchange.Int("max_rows")},
          {"beside", int64_t{1}}};
}

ValueId ReturnRows(GraphBuilder& b, ValueId y, const RowExchange& exchange,
                   int64_t max_rows, absl::string_view group) {
  return b.Add1(kReturnRows,
                {y, exchange.home_offset, exchange.count, exchange.home_rows},
                AttrsOf(exchange.ranks, group, max_rows));
}

}  // namespace strata
