// Whether a record is one of a trace of a given layout.

#ifndef CORE_TRACE_CHECK_RECORD_H_
#define CORE_TRACE_CHECK_RECORD_H_

#include "absl/status/status.h"
#include "core/trace/routing_layout.h"
#include "core/trace/routing_trace.pb.h"

namespace strata {

// Returns DATA_LOSS with the array and the numbers if an array has not its
// length, or if numbers contradict each other: tokens that come from nowhere,
// more rows than tokens could make, choices that are not those counted.
absl::Status CheckRecord(const RoutingLayout& layout,
                         const RoutingRecord& record);

}  // namespace strata

#endif  // CORE_TRACE_CHECK_RECORD_H_
