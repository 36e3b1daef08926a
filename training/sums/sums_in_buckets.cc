#include "training/sums/sums_in_buckets.h"

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "absl/types/span.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/ops/collective.h"
#include "training/sums/buckets.h"
#include "training/sums/owners.h"

namespace strata {
namespace {

std::vector<int> OwnersOf(const GraphBuilder& b, const Owners& owners,
                          absl::Span<const ValueId> states) {
  std::vector<int> owner;
  for (const ValueId state : states) {
    owner.push_back(owners.Of(
        std::string(absl::StripPrefix(b.graph().value(state).name, "grad."))));
  }
  return owner;
}

}  // namespace

Buckets SumsToAll(GraphBuilder& b, absl::string_view group,
                  int64_t bucket_elements) {
  const bool beside = bucket_elements > 0;
  return Buckets(
      b,
      [&b, beside,
       group = std::string(group)](absl::Span<const ValueId> bucket) {
        AllReduce(b, bucket, group, beside);
      },
      beside ? bucket_elements : Buckets::kMaxElements);
}

Buckets SumsToOwners(GraphBuilder& b, const Owners& owners,
                     absl::string_view group, int64_t bucket_elements) {
  const bool beside = bucket_elements > 0;
  return Buckets(
      b,
      [&b, &owners, beside,
       group = std::string(group)](absl::Span<const ValueId> bucket) {
        ReduceToOwners(b, bucket, OwnersOf(b, owners, bucket),
                       owners.num_ranks(), group, beside);
      },
      beside ? bucket_elements : Buckets::kMaxElements);
}

Buckets CopiesFromOwners(GraphBuilder& b, const Owners& owners,
                         absl::string_view group) {
  return Buckets(b, [&b, &owners, group = std::string(group)](
                        absl::Span<const ValueId> bucket) {
    GatherFromOwners(b, bucket, OwnersOf(b, owners, bucket), owners.num_ranks(),
                     group);
  });
}

}  // namespace strata
