// What a block of a model is made of, before and after fusion.

#ifndef CORE_PASSES_FUSE_BLOCK_SUMMARY_H_
#define CORE_PASSES_FUSE_BLOCK_SUMMARY_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"

namespace strata {

struct BlockSummary {
  // Names of the nodes' operators, in order. Each is a launch.
  std::vector<std::string> nodes;
  // The steps that a block is drawn as (docs/fusion.md): nodes that are one
  // step count as one. Neighbours of one kind are one (projections, rotations,
  // cache writes); a product before a gate's scores is the gate's; dispatch is
  // plan and rows; experts are both products and what is between them; what
  // combines adds the residual too.
  int64_t num_basic = 0;
  // Of values that the block makes and nobody else reads, at their bounds.
  int64_t intermediate_bytes = 0;
  Cost cost;  // At bounds.
};

// Of the nodes whose scope is `scope` or begins with "`scope`.".
BlockSummary SummariseBlock(const Graph& graph, absl::string_view scope);

}  // namespace strata

#endif  // CORE_PASSES_FUSE_BLOCK_SUMMARY_H_
