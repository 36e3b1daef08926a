// The flat model that a hierarchical one is compared with.

#ifndef CORE_MODEL_SIBLING_H_
#define CORE_MODEL_SIBLING_H_

#include <cstdint>

#include "core/model/config.pb.h"

namespace strata {

// The same model with a flat softmax top-k router over as many experts, whose
// weights sum to 1, trained with a load-balance loss (the V2 router of the
// specification). Its experts have the least width with which it has at least
// as many parameters, so that what the hierarchical gate costs is the flat
// model's to spend: it has 0 to one unit of width more (3 d_model per expert
// and MoE layer).
//
// `hierarchical` must be valid, have a hierarchical router and an MoE layer; k
// is 1 to the number of experts.
ModelConfig FlatSibling(const ModelConfig& hierarchical, int64_t k);

}  // namespace strata

#endif  // CORE_MODEL_SIBLING_H_
