// Rows of experts that other ranks hold: sent to the owner and back, as an
// all-to-all of as many rows as the gates happened to choose.
//
//   home     x [rows, d], by expert of all E          the rank of the tokens
//     |  SendRows                     ^
//     v                               |  ReturnRows
//   owner    [rows of all ranks, d], by expert of its E / ranks; of an expert,
//            by sender, then as at home
//
// Rank r of the group owns experts [r E / ranks, (r + 1) E / ranks). Counts are
// exchanged first, as nobody else knows them. Each operator is the other's
// gradient. Every rank of the group runs the same ones in the same order, with
// rows or without.

#ifndef CORE_OPS_COLLECTIVE_ROWS_H_
#define CORE_OPS_COLLECTIVE_ROWS_H_

#include <cstdint>

#include "absl/strings/string_view.h"
#include "core/graph/attrs.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"

namespace strata {

extern const OpDef kExchangePlan;  // offset -> count, offset, rows of the owner
extern const OpDef kSendRows;      // (x, offset, count, rows at the owner)
extern const OpDef kReturnRows;    // (y, offset, count, rows at home)

struct RowExchange {
  ValueId home_offset = kNone;  // I32 [E + 1], of a dispatch plan
  ValueId home_rows = kNone;    // I32 [], of the same
  // Of the rows that came here, to be processed:
  ValueId count = kNone;   // I32 [ranks, E / ranks], by sender and expert
  ValueId offset = kNone;  // I32 [E / ranks + 1], as a dispatch plan's
  ValueId rows = kNone;    // I32 []
  int64_t ranks = 1;
};

// `ranks`: how many there are in `group` (Mesh::Find); they divide E. Running
// it returns FAILED_PRECONDITION if the group is of another size.
RowExchange ExchangePlan(GraphBuilder& b, ValueId home_offset,
                         ValueId home_rows, int64_t ranks,
                         absl::string_view group);

// x [rows <= n, d], as DispatchRows gives it -> [rows at the owner <=
// ranks * n, d]. On the wire are, of even loads, (ranks - 1) / ranks of x.
ValueId SendRows(GraphBuilder& b, ValueId x, const RowExchange& exchange,
                 absl::string_view group);

// Whether a node is one of the two that move rows.
bool MovesRows(const Node& node);

// The attributes of one of these, with one more that lets it run beside the
// nodes that follow it (core/passes/plan_beside.h).
Attrs BesideAttrs(const Attrs& exchange);

// y, as SendRows' result; `max_rows` is the n of its x -> [rows <= n, d].
ValueId ReturnRows(GraphBuilder& b, ValueId y, const RowExchange& exchange,
                   int64_t max_rows, absl::string_view group);

}  // namespace strata

#endif  // CORE_OPS_COLLECTIVE_ROWS_H_
