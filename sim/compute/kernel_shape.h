// What a kernel is asked to do: sizes, precision, and what it finds in the
// caches. The inputs of KernelModel (sim/compute/kernel_model.h).
//
// Sizes count elements unless the name has a unit. Gradients are kernels like
// any other: the two of y = x W ([m, k] by [k, n]) are products of [m, n, k]
// and [k, m, n] in (m, k, n); attention's are asked for by `backward`.

#ifndef SIM_COMPUTE_KERNEL_SHAPE_H_
#define SIM_COMPUTE_KERNEL_SHAPE_H_

#include <cstdint>
#include <string>

namespace strata {

// Of the operands of a product. Sums are in FP32, activations in BF16.
enum class Precision {
  kBf16,       // 2 bytes an element
  kFp8,        // 1 byte; activations are quantised before, unless they are
  kFp8Block,   // 1 byte, a scale for each block of 128 by 128
  kInt4Weight  // 4 bits a weight; BF16 activations, BF16 arithmetic
};

// Bytes of a weight, its share of a scale included.
constexpr double WeightBytes(Precision precision) {
  switch (precision) {
    case Precision::kBf16:
      return 2;
    case Precision::kFp8:
      return 1;
    case Precision::kFp8Block:
      return 1 + 4.0 / (128 * 128);
    case Precision::kInt4Weight:
      return 0.5 + 2.0 / 128;
  }
  return 2;
}

// What the kernel finds in the L2 cache.
enum class Reuse {
  // Weights and KV cache come from memory, as in a model whose other layers
  // have run since.
  kNone,
  // The same call repeats, as in a benchmark: what fits in L2 is found there.
  kRepeated
};

// c [m, n] = a [m, k] b [k, n]; b holds the weights.
struct MatMul {
  int64_t m = 0;
  int64_t n = 0;
  int64_t k = 0;
  Precision precision = Precision::kBf16;
  Reuse reuse = Reuse::kNone;
  // FP8 activations are there: what made them wrote them so.
  bool quantised = false;
};

// Rows of the local experts of a grouped product: all that its cost depends on,
// for any number of experts. See sim/compute/expert_rows.h for its makers.
struct ExpertRows {
  // Heights of the tiles that rows are cut into.
  static constexpr int kNumHeights = 5;
  static constexpr int kHeight[kNumHeights] = {16, 32, 64, 128, 256};

  double rows = 0;                  // over all local experts
  double touched = 0;               // experts with at least one row
  double blocks[kNumHeights] = {};  // sum over experts of ceil(rows / height)
};

// For each of several experts, c [rows, n] = a [rows, k] b [k, n].
struct GroupedMatMul {
  ExpertRows rows;
  int64_t num_experts = 0;  // local ones
  int64_t n = 0;
  int64_t k = 0;
  Precision precision = Precision::kBf16;
  Reuse reuse = Reuse::kNone;
};

// The experts' half of a layer on one rank: route plan, product to the inner
// width (twice it, if gated), activation, product back, weighted sum. Without
// communication.
struct MoeLayer {
  int64_t tokens = 0;  // that this rank sees, before routing
  int64_t hidden = 0;
  int64_t inner = 0;    // the whole expert's; tensor parallelism divides it
  int64_t experts = 0;  // of the layer; expert parallelism divides them
  int64_t top_k = 0;
  int64_t tensor_parallel = 1;
  int64_t expert_parallel = 1;
  bool gated = true;
  Precision precision = Precision::kBf16;
  // Of the software whose calibration to take; empty for the device's default.
  std::string kernel_source;
  Reuse reuse = Reuse::kNone;
  // The library has no tiles that it tuned for this layer and takes the first
  // that it knows.
  bool untuned = false;
  ExpertRows rows;  // of the local experts
};

// Self-attention of whole sequences: softmax(q k' / sqrt(head_dim)) v, with
// rotary positions applied and the KV cache written.
struct AttentionPrefill {
  int64_t batch = 0;
  int64_t sequence = 0;
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  bool causal = true;
  int64_t window = 0;  // keys that a query sees; 0 for all
  bool fp8_kv_cache = false;
  // Neither rotates nor writes a cache: kernels of their own do.
  bool scores_only = false;
  // The gradient: five products where the forward pass has two.
  bool backward = false;
};

// One new token of each sequence against a KV cache.
struct AttentionDecode {
  int64_t batch = 0;
  int64_t context = 0;  // tokens in the cache, the new one included
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  int64_t window = 0;
  bool fp8_kv_cache = false;
  Reuse reuse = Reuse::kNone;
};

// Multi-head latent attention of DeepSeek-V2 and V3: keys and values are a
// latent of `latent` elements, shared by all heads, and a rotary key of `rope`.
struct LatentPrefill {  // Expanded: heads of nope + rope and of value_dim.
  int64_t batch = 0;
  int64_t sequence = 0;
  int64_t heads = 0;
  int64_t latent = 512;
  int64_t rope = 64;
  int64_t nope = 128;
  int64_t value_dim = 128;
  bool fp8_kv_cache = false;
  bool scores_only = false;
  bool backward = false;
};

struct LatentDecode {  // Absorbed: every head reads the latent itself.
  int64_t batch = 0;
  int64_t context = 0;
  int64_t heads = 0;
  int64_t latent = 512;
  int64_t rope = 64;
  bool fp8_kv_cache = false;
  Reuse reuse = Reuse::kNone;
};

// Norms, activations, additions, casts: bytes read and written.
struct Elementwise {
  double bytes = 0;
  int64_t kernels = 1;
};

}  // namespace strata

#endif  // SIM_COMPUTE_KERNEL_SHAPE_H_
