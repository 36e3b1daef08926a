// Weights, packed or not, and rows of caches as inputs of kernel tests.

#ifndef CUDA_TESTING_PACKED_INPUTS_H_
#define CUDA_TESTING_PACKED_INPUTS_H_

#include <algorithm>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/quant/format.h"
#include "core/quant/packed_rows.h"
#include "core/tensor/bfloat16.h"
#include "core/tensor/dtype.h"
#include "core/tensor/tensor.h"

namespace strata::gpu {

// Rows of k columns of random codes, scales and zeros.
inline void FillPacked(const TensorView& view, const QuantFormat& format,
                       int64_t k) {
  const int64_t bytes = PackedRow(format, k).bytes;
  const int64_t groups = NumGroups(format, k);
  std::mt19937 rng(7);
  std::uniform_int_distribution<int> any(0, format.max_code());
  std::uniform_real_distribution<float> some(0.01f, 0.03f);
  std::vector<uint8_t> code(k), zero(groups);
  std::vector<BFloat16> scale(groups);
  for (int64_t at = 0; at < view.num_elements(); at += bytes) {
    for (uint8_t& c : code) c = static_cast<uint8_t>(any(rng));
    for (uint8_t& z : zero) z = static_cast<uint8_t>(any(rng));
    for (BFloat16& s : scale) s = RoundToBFloat16(some(rng));
    PackRow(format, k, code.data(), scale.data(), zero.data(),
            view.as<uint8_t>() + at);
  }
}

// Positions or rows of a cache from `first` on; those of tokens beyond the
// count, which go nowhere, stay below `limit`.
inline bool FillConsecutive(const TensorView& view, int64_t first,
                            int64_t limit) {
  int32_t* const to = view.as<int32_t>();
  for (int64_t i = 0; i < view.num_elements(); ++i) {
    to[i] = static_cast<int32_t>(std::min(first + i, limit - 1));
  }
  return true;
}

// Small numbers that repeat late.
inline bool FillBf16Weight(const TensorView& view) {
  auto* const to = static_cast<BFloat16*>(view.data);
  for (int64_t i = 0; i < view.num_elements(); ++i) {
    to[i] = RoundToBFloat16(0.001f * ((i * 37 + i / 41) % 201 - 100));
  }
  return true;
}

// Rows of a cache in BF16, in bytes.
inline bool FillBf16Cache(const TensorView& view) {
  std::mt19937 rng(11);
  std::normal_distribution<float> normal;
  auto* const to = static_cast<BFloat16*>(view.data);
  for (int64_t i = 0; i < view.num_elements() / 2; ++i) {
    to[i] = RoundToBFloat16(normal(rng));
  }
  return true;
}

// A weight [.., n, k] of a test, in BF16 where `format` has no bits, or packed.
inline ValueId WeightInput(GraphBuilder& b, const std::string& name, Dims dims,
                           const QuantFormat& format) {
  if (format.bits == 0) return b.Input(name, DType::kBF16, dims);
  dims.back() = Static(PackedRow(format, dims.back().bound).bytes);
  return b.Input(name, DType::kU8, dims);
}

}  // namespace strata::gpu

#endif  // CUDA_TESTING_PACKED_INPUTS_H_
