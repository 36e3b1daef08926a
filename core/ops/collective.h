// Operators that exchange data with other ranks: the collectives of a graph
// that several ranks run together (docs/distributed.md). A program that has
// them wants a backend with a mesh (core/parallel/mesh.h).

#ifndef CORE_OPS_COLLECTIVE_H_
#define CORE_OPS_COLLECTIVE_H_

#include <cstdint>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/graph/builder.h"
#include "core/graph/op_def.h"

namespace strata {

extern const OpDef kAllReduce;
extern const OpDef kBroadcast;
extern const OpDef kReduceToOwners;
extern const OpDef kGatherFromOwners;
extern const OpDef kAllGather;  // x -> [ranks, x]

constexpr int kMaxBucketStates = 256;

// Each of up to kMaxBucketStates `states` (parameters or states of one dtype,
// F32, F64 or I32) becomes its sum over the ranks of `group` (Mesh::Find), all
// by one message: a bucket. Its cost has the bucket's bytes on the wire; of a
// ring of n ranks each sends and receives 2 (n - 1) / n times as much.
// `beside`: it has an attribute of that name, and may run beside the nodes that
// follow it (core/passes/plan_beside.h).
void AllReduce(GraphBuilder& b, absl::Span<const ValueId> states,
               absl::string_view group, bool beside = false);

// Each of up to kMaxBucketStates `states`, as in AllReduce, becomes that of
// rank `root` of `group`, all by one message.
void Broadcast(GraphBuilder& b, absl::Span<const ValueId> states, int root,
               absl::string_view group);

// Each of `states`, as in AllReduce, becomes its sum over the ranks of `group`
// at the one that owns it, all by one message: state i at rank owner[i] <
// ranks. Elsewhere it is of no more use. Of a ring of n ranks each sends (n -
// 1) / n of the bucket, half of what AllReduce sends. Running it returns
// FAILED_PRECONDITION if the group has not so many ranks.
void ReduceToOwners(GraphBuilder& b, absl::Span<const ValueId> states,
                    absl::Span<const int> owner, int ranks,
                    absl::string_view group, bool beside = false);

// Each of `states` becomes what it is at its owner, likewise.
void GatherFromOwners(GraphBuilder& b, absl::Span<const ValueId> states,
                      absl::Span<const int> owner, int ranks,
                      absl::string_view group);

// The `x` of all `ranks` ranks of `group`, in their order: x [...], of static
// extents -> [ranks, ...]. Running it returns FAILED_PRECONDITION if the group
// is of another size.
ValueId AllGather(GraphBuilder& b, ValueId x, int64_t ranks,
                  absl::string_view group);

}  // namespace strata

#endif  // CORE_OPS_COLLECTIVE_H_
