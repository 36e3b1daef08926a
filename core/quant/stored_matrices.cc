#include "core/quant/stored_matrices.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "core/checkpoint/stored_tensor.h"
#include "core/quant/quantized_files.h"
#include "core/quant/quantized_matrix.h"
#include "core/quant/stored_groups.h"
#include "core/tensor/shape.h"

namespace strata {

void AppendMatrix(const QuantizedMatrix& matrix, int64_t e, int64_t n,
                  const StoredParts& parts, ArraysByName& arrays) {
  const auto num_parts = static_cast<int64_t>(parts.names.size());
  const int64_t slices = std::max<int64_t>(1, num_parts / n);
  const int64_t rows = matrix.rows / slices;
  for (int64_t s = 0; s < slices; ++s) {
    const int64_t part = num_parts == 1 ? 0 : e * slices + s;
    GroupArrays& array = arrays[parts.names[part]];
    array.format = matrix.format;
    array.shape = parts.shape;
    array.Append(matrix, s * rows, rows);
  }
}

std::vector<QuantizedMatrix> ReadMatrices(int64_t n, const StoredParts& parts,
                                          const StoredTensors& tensors) {
  const int64_t columns = parts.shape.back();
  const int64_t part_rows = NumElements(parts.shape) / columns;
  const auto num_parts = static_cast<int64_t>(parts.names.size());
  const int64_t rows = num_parts * part_rows / n;
  std::vector<QuantizedMatrix> matrices;
  for (int64_t row = 0; row < n * rows; ++row) {
    const StoredGroups& stored =
        tensors.at(parts.names[row / part_rows]).groups;
    if (row % rows == 0) matrices.emplace_back(stored.format, rows, columns);
    QuantizedMatrix& matrix = matrices.back();
    const int64_t groups = matrix.num_groups();
    const int64_t to = row % rows, from = row % part_rows;
    ReadCodes(stored, from, matrix.code.data() + to * columns,
              matrix.zero.data() + to * groups);
    std::copy_n(stored.scale + from * groups, groups,
                matrix.scale.begin() + to * groups);
  }
  return matrices;
}

}  // namespace strata
