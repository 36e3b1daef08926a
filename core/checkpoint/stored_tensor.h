// A tensor as a checkpoint holds it, and its numbers as we compute with them.

#ifndef CORE_CHECKPOINT_STORED_TENSOR_H_
#define CORE_CHECKPOINT_STORED_TENSOR_H_

#include <cstdint>
#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "core/quant/stored_groups.h"
#include "core/tensor/shape.h"
#include "core/tensor/tensor.h"

namespace strata {

struct StoredTensor {
  // Elements as they are, or in GGUF's blocks of 32 (view.dtype is then F32 and
  // view.data the blocks):
  //   Q8_0  F16 scale, 32 I8                      x = scale * q
  //   Q4_0  F16 scale, 16 bytes of two 4-bit      x = scale * (q - 8); byte j
  //         has element j in its low half, j + 16 in its high
  // or in integers as `groups` says (core/quant/packed_tensors.h), view.data
  // being their codes.
  enum class Packing { kNone, kQ8_0, kQ4_0, kGroups };

  TensorView view;
  Packing packing = Packing::kNone;
  StoredGroups groups;
  // 0, or: the rows are so many heads, and within each lie as rotary pairs
  // (2j, 2j + 1) what we want as halves (j, j + rows/2).
  int64_t paired_heads = 0;
};

// By name; the memory belongs to whoever made it.
using StoredTensors = std::map<std::string, StoredTensor>;

// Bytes of `num_elements` in GGUF's packing, which must be a whole number of
// blocks.
int64_t PackedBytes(StoredTensor::Packing packing, int64_t num_elements);

// Part `i` of `parts` of equal size, one behind another, each of `part_shape`:
// whole rows of it.
StoredTensor PartOf(const StoredTensor& tensor, int64_t i, int64_t parts,
                    const Shape& part_shape);

// What fp8 weights are multiplied by, a block of them each.
//   weight[r, c] = stored[r, c] * scale[r / rows, c / columns]
struct Fp8Scale {
  const float* scale = nullptr;  // [ceil(R / rows), ceil(C / columns)]
  int64_t rows = 0;
  int64_t columns = 0;
};

// Whether numbers of that dtype can be read; what can, for messages.
bool IsReadable(DType dtype);
inline constexpr char kReadableDTypes[] =
    "F32, F64, F16, BF16, F8_E4M3 or F8_E5M2";

// Writes the numbers of `tensor`, of any rank, to `out` [num_elements], float
// or double; `scale` may be null.
//
// Returns INVALID_ARGUMENT that says which element is a NaN or an infinity;
// `name` is for the message.
template <typename T>
absl::Status ReadNumbers(absl::string_view name, const StoredTensor& tensor,
                         const Fp8Scale* scale, T* out);

}  // namespace strata

#endif  // CORE_CHECKPOINT_STORED_TENSOR_H_
