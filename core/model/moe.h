// The feed-forward half of a layer: dense SwiGLU, a flat mixture of experts, or
// a hierarchical one.
//
//   flat          h += experts(norm(h)), one choice among all experts
//   hierarchical  tier 1: h += experts_1(norm_1(h))
//                 tier 2: h += experts_2(norm_2(h)), of tokens that have not
//                 ...     left
//   shared        h += shared_expert(norm(h)), beside the experts

#ifndef CORE_MODEL_MOE_H_
#define CORE_MODEL_MOE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/model/config.pb.h"
#include "core/model/gate.h"

namespace strata {

// What one gate decided, of layer `layer` and tier `tier` (0 where flat).
struct RouterValues {
  int64_t layer = 0;
  int64_t tier = 0;
  int64_t num_experts = 0;
  int64_t expert_width = 0;
  ValueId tokens = kNone;    // [] I32, tokens that reached the gate
  ValueId expert = kNone;    // [tokens, k] I32, -1 where none
  ValueId offset = kNone;    // [experts + 1] I32, rows of each expert
  ValueId slot_row = kNone;  // [tokens, k] I32, where each choice's row is
  ValueId output = kNone;    // [rows, d], of each expert, not yet weighted
  std::vector<GateLoss> losses;
  std::string gate;  // Prefix of its parameters' and states' names.

  // Names of the graph's outputs.
  std::string OffsetName() const;
  std::string TokensName() const;
  std::string ExpertName() const;

  // Of its inputs, where choices are replayed (GateOptions).
  std::string ReplayExpertName() const;
  std::string ReplayStayName() const;
};

struct MoeOptions {
  int64_t layer = 0;
  ValueId num_tokens = kNone;  // [] I32
  GateOptions gate;            // The names of inputs are set by the block.
};

// swiglu(norm(h)) of inner width `width`, to be added to h [t, d].
ValueId DenseBlock(GraphBuilder& builder, const ModelConfig& config,
                   int64_t width, ValueId h);

// h [t, d] with the experts' outputs added; appends its gates to `routers`.
ValueId MoeBlock(GraphBuilder& builder, const ModelConfig& config,
                 const MoeOptions& options, ValueId h,
                 std::vector<RouterValues>& routers);

}  // namespace strata

#endif  // CORE_MODEL_MOE_H_
