// Records of a micro-batch that passed several stages, each with gates of its
// own, joined.

#ifndef CORE_TRACE_MERGE_RECORDS_H_
#define CORE_TRACE_MERGE_RECORDS_H_

#include "absl/status/status.h"
#include "core/trace/routing_trace.pb.h"

namespace strata {

// Appends to `record` what `next`, of the stage after it, has of its gates.
//
// Returns INVALID_ARGUMENT if they are not of one micro-batch.
absl::Status MergeStage(const RoutingRecord& next, RoutingRecord& record);

}  // namespace strata

#endif  // CORE_TRACE_MERGE_RECORDS_H_
