// Rotary position embedding (RoFormer, arXiv:2104.09864).
//
// Of each head's d columns the last `rotary_dim` are rotated, in pairs: with
// r = rotary_dim and base column s = d - r, for j in [0, r/2)
//
//   angle = position * f[j],  f[j] = theta^(-2j / r) before any stretching
//   y[a] = magnitude * (x[a] cos(angle) - x[b] sin(angle))
//   y[b] = magnitude * (x[a] sin(angle) + x[b] cos(angle))
//
//   halves (Llama, Hugging Face)       a = s + j,   b = s + j + r/2
//   interleaved (the paper, DeepSeek)  a = s + 2j,  b = s + 2j + 1

#ifndef CORE_OPS_ROPE_H_
#define CORE_OPS_ROPE_H_

#include <cstdint>

#include "core/graph/attrs.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"

namespace strata {

extern const OpDef kRope;  // Attribute inverse=1 turns back: the gradient.

// How the frequencies of a model trained on `original_len` positions are
// changed so that it reads more. Formulas as in transformers'
// modeling_rope_utils.py; `factor` is by how much longer.
enum class RopeStretch : int64_t {
  kNone = 0,
  kLinear = 1,   // f / factor.
  kDynamic = 2,  // A larger theta, once a sequence is longer than original_len.
  kYarn = 3,     // arXiv:2309.00071; low, high: beta_slow, beta_fast.
  kLlama3 = 4,   // low, high: low_freq_factor, high_freq_factor.
};

struct RopeOptions {
  int64_t num_heads = 1;
  int64_t rotary_dim = 0;
  double theta = 10000;
  bool interleaved = false;
  double magnitude = 1;
  RopeStretch stretch = RopeStretch::kNone;
  double factor = 1;
  double original_len = 0;
  double low = 1;
  double high = 32;
  bool truncate = true;  // kYarn: the ramp's ends are whole columns.
};

// x [t, num_heads * d], position [t] I32 -> same shape.
// `seq_len` [t] I32: the length of each token's sequence, by which kDynamic
// takes its theta, so that a token turns the same in any company; kNone: that
// of the longest, the largest position and one.
ValueId Rope(GraphBuilder& b, ValueId x, ValueId position,
             const RopeOptions& options, bool inverse = false,
             ValueId seq_len = kNone);

// The options of a Rope node.
RopeOptions RopeOptionsOf(const Attrs& attrs);

// frequency[j], j < rotary_dim / 2, in a sequence of `seq_len` tokens (which
// only kDynamic looks at).
void RopeFrequencies(const RopeOptions& options, int64_t seq_len,
                     double* frequency);

}  // namespace strata

#endif  // CORE_OPS_ROPE_H_
