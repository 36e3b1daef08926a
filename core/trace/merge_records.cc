#include "core/trace/merge_records.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/trace/routing_trace.pb.h"

namespace strata {

absl::Status MergeStage(const RoutingRecord& next, RoutingRecord& record) {
  if (next.step() != record.step() ||
      next.micro_batch() != record.micro_batch()) {
    return absl::InvalidArgumentError(
        absl::StrCat("a stage recorded step ", next.step(), ", micro-batch ",
                     next.micro_batch(), " where the one before recorded step ",
                     record.step(), ", micro-batch ", record.micro_batch()));
  }
  // All arrays over gates are those of one gate after another.
  record.mutable_tokens()->MergeFrom(next.tokens());
  record.mutable_exits()->MergeFrom(next.exits());
  record.mutable_rows()->MergeFrom(next.rows());
  record.mutable_chosen()->append(next.chosen());
  record.mutable_weight()->append(next.weight());
  record.mutable_considered()->append(next.considered());
  record.mutable_left()->append(next.left());
  return absl::OkStatus();
}

}  // namespace strata
