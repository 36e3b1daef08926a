// The tensors of a folder that a quantised parameter is stored in, and its
// matrices, those of experts one each.

#ifndef CORE_QUANT_STORED_MATRICES_H_
#define CORE_QUANT_STORED_MATRICES_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "core/checkpoint/stored_tensor.h"
#include "core/quant/quantized_files.h"
#include "core/quant/quantized_matrix.h"
#include "core/tensor/shape.h"

namespace strata {

// Of equal shape, whole rows of the parameter one after another: all matrices
// in one, one each, or several for each.
struct StoredParts {
  std::vector<std::string> names;
  Shape shape;
};

// Tensors that are being made, by name.
using ArraysByName = std::map<std::string, GroupArrays>;

// Puts matrix `e` of `n` behind those before it, which must be there already.
void AppendMatrix(const QuantizedMatrix& matrix, int64_t e, int64_t n,
                  const StoredParts& parts, ArraysByName& arrays);

// The matrices, `n` of them. All parts must be in `tensors`, and RowsFillWords
// of a part with several matrices.
std::vector<QuantizedMatrix> ReadMatrices(int64_t n, const StoredParts& parts,
                                          const StoredTensors& tensors);

}  // namespace strata

#endif  // CORE_QUANT_STORED_MATRICES_H_
