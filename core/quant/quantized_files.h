// Writing quantised weights: their tensors, and what config.json says of them.

#ifndef CORE_QUANT_QUANTIZED_FILES_H_
#define CORE_QUANT_QUANTIZED_FILES_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "core/checkpoint/stored_tensor.h"
#include "core/checkpoint/weight_files.h"
#include "core/quant/format.h"
#include "core/quant/quantized_matrix.h"
#include "core/tensor/bfloat16.h"
#include "core/tensor/shape.h"

namespace strata {

// A quantised tensor of a file while it is made: matrices one behind another.
struct GroupArrays {
  QuantFormat format;
  Shape shape;
  std::vector<uint32_t> code;
  std::vector<BFloat16> scale;
  std::vector<uint32_t> zero;

  // Rows [first, first + rows) of `matrix`, as a matrix of their own.
  void Append(const QuantizedMatrix& matrix, int64_t first, int64_t rows);
  // A view of it, of the arrays as they stand.
  StoredTensor View() const;
};

// The tensors of a file that quantised tensor `name` is (stored_groups.h);
// `tensor` is a view of packing kGroups, whose memory must outlive them.
std::vector<TensorToWrite> GroupTensors(const std::string& name,
                                        const StoredTensor& tensor);

// Formats, and the modules or kinds of module ("Linear") that have them.
using QuantSchemes =
    std::vector<std::pair<QuantFormat, std::vector<std::string>>>;

// config.json's text with a quantization_config as compressed-tensors has it,
// `ignored` being the modules that stay as they are.
//
// Returns INVALID_ARGUMENT if `config` is no JSON object.
absl::StatusOr<std::string> WithQuantizationConfig(
    const std::string& config, const QuantSchemes& schemes,
    const std::vector<std::string>& ignored);

}  // namespace strata

#endif  // CORE_QUANT_QUANTIZED_FILES_H_
