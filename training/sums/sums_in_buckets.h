// Sums of gradients over the ranks of a group, bucket by bucket: to all ranks,
// or each to the rank that owns the parameter; and parameters from their
// owners.

#ifndef TRAINING_SUMS_SUMS_IN_BUCKETS_H_
#define TRAINING_SUMS_SUMS_IN_BUCKETS_H_

#include <cstdint>

#include "absl/strings/string_view.h"
#include "core/graph/builder.h"
#include "training/sums/buckets.h"
#include "training/sums/owners.h"

namespace strata {

// Buckets that nodes are added to `b` of (core/ops/collective.h). `b` and
// `owners`, which has the state's parameter ("grad.<parameter>", or itself),
// must outlive the result.
// With `bucket_elements` they may run beside the nodes that follow them
// (core/passes/plan_beside.h); 0: one bucket after the other, of
// Buckets::kMaxElements.
Buckets SumsToAll(GraphBuilder& b, absl::string_view group,
                  int64_t bucket_elements = 0);
Buckets SumsToOwners(GraphBuilder& b, const Owners& owners,
                     absl::string_view group, int64_t bucket_elements = 0);
Buckets CopiesFromOwners(GraphBuilder& b, const Owners& owners,
                         absl::string_view group);

}  // namespace strata

#endif  // TRAINING_SUMS_SUMS_IN_BUCKETS_H_
