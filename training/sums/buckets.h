// States that one message of a collective brings together: a message has a cost
// of its own. Not too large, as some communicators copy each.

#ifndef TRAINING_SUMS_BUCKETS_H_
#define TRAINING_SUMS_BUCKETS_H_

#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/ops/collective.h"

namespace strata {

class Buckets {
 public:
  using AddBucket = std::function<void(absl::Span<const ValueId> bucket)>;

  // Elements of a bucket, after which the next begins.
  static constexpr int64_t kMaxElements = int64_t{4} << 20;

  // `add` is called for one bucket after the other. `b` must outlive it.
  Buckets(const GraphBuilder& b, AddBucket add, int64_t elements = kMaxElements)
      : b_(b), add_(std::move(add)), limit_(elements) {}

  void Add(ValueId state) {
    bucket_.push_back(state);
    elements_ += b_.graph().value(state).type.max_elements();
    if (elements_ >= limit_ || bucket_.size() == kMaxBucketStates) Flush();
  }
  void Flush() {
    if (!bucket_.empty()) add_(bucket_);
    bucket_.clear();
    elements_ = 0;
  }

 private:
  const GraphBuilder& b_;
  const AddBucket add_;
  const int64_t limit_;
  std::vector<ValueId> bucket_;
  int64_t elements_ = 0;
};

}  // namespace strata

#endif  // TRAINING_SUMS_BUCKETS_H_
