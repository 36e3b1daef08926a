// The values that parameters have before training.

#ifndef CORE_MODEL_INIT_H_
#define CORE_MODEL_INIT_H_

#include <cstdint>
#include <string>

#include "core/model/config.pb.h"
#include "core/runtime/state_store.h"
#include "core/tensor/tensor.h"

namespace strata {

// Sets every parameter of `state`: gains of norms to 1, embeddings and matrices
// to normal numbers of variance 1 / fan-in, projections back into the residual
// stream (o_proj, down_proj) smaller by the root of the number of such branches
// (as GPT-2 does; each tier is one). Each parameter has a random stream of its
// name, so values depend on the seed and on nothing else. One that lies in two
// halves (core/ops/adamw_halves.h) is in both what it would be in F32. By all
// cores, a parameter each.
void InitializeParameters(const ModelConfig& config, uint64_t seed,
                          StateStore& state);

// One of them, of F32, F64 or BF16, whose whole extents `view` has; of halves
// `low` is the I16 one, else null.
void InitializeParameter(const ModelConfig& config, uint64_t seed,
                         const std::string& name, const TensorView& view,
                         const TensorView* low = nullptr);

}  // namespace strata

#endif  // CORE_MODEL_INIT_H_
