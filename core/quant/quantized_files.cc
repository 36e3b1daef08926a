#include "core/quant/quantized_files.h"

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/base/status_macros.h"
#include "core/checkpoint/stored_tensor.h"
#include "core/checkpoint/weight_files.h"
#include "core/model/proto_json.h"
#include "core/quant/format.h"
#include "core/quant/quantized_matrix.h"
#include "core/quant/stored_groups.h"
#include "core/tensor/dtype.h"
#include "core/tensor/shape.h"
#include "nlohmann/json.hpp"

namespace strata {
namespace {

TensorToWrite Bytes(std::string name, DType dtype, Shape shape,
                    const void* data) {
  const int64_t bytes = NumElements(shape) * SizeOf(dtype);
  return {
      std::move(name), dtype, std::move(shape),
      [data, bytes](TensorToWrite::Append append) {
        return append(absl::string_view(static_cast<const char*>(data), bytes));
      }};
}

nlohmann::ordered_json Scheme(const QuantFormat& format,
                              const std::vector<std::string>& targets) {
  nlohmann::ordered_json weights = {
      {"num_bits", format.bits},
      {"type", "int"},
      {"symmetric", format.symmetric},
      {"strategy", format.group == 0 ? "channel" : "group"},
      {"dynamic", false}};
  weights["group_size"] = nullptr;
  if (format.group > 0) weights["group_size"] = format.group;
  return {{"targets", targets},
          {"weights", weights},
          {"input_activations", nullptr},
          {"output_activations", nullptr}};
}

}  // namespace

void GroupArrays::Append(const QuantizedMatrix& matrix, int64_t first,
                         int64_t rows) {
  const int64_t k = matrix.columns, groups = matrix.num_groups();
  QuantizedMatrix part(matrix.format, rows, k);
  part.code.assign(matrix.code.begin() + first * k,
                   matrix.code.begin() + (first + rows) * k);
  part.zero.assign(matrix.zero.begin() + first * groups,
                   matrix.zero.begin() + (first + rows) * groups);
  const std::vector<uint32_t> codes = StoredCodes(part);
  code.insert(code.end(), codes.begin(), codes.end());
  scale.insert(scale.end(), matrix.scale.begin() + first * groups,
               matrix.scale.begin() + (first + rows) * groups);
  if (format.symmetric) return;
  const std::vector<uint32_t> zeros = StoredZeros(part);
  zero.insert(zero.end(), zeros.begin(), zeros.end());
}

StoredTensor GroupArrays::View() const {
  StoredTensor tensor;
  tensor.packing = StoredTensor::Packing::kGroups;
  tensor.view = {DType::kF32, shape, const_cast<uint32_t*>(code.data())};
  tensor.groups = {format, shape.back(), code.data(), scale.data(),
                   format.symmetric ? nullptr : zero.data()};
  return tensor;
}

std::vector<TensorToWrite> GroupTensors(const std::string& name,
                                        const StoredTensor& tensor) {
  const StoredGroups& groups = tensor.groups;
  const Shape& shape = tensor.view.shape;
  std::vector<TensorToWrite> tensors;
  Shape of = shape;
  of.back() = NumWords(groups.columns, groups.format.bits);
  tensors.push_back(
      Bytes(absl::StrCat(name, kPackedSuffix), DType::kI32, of, groups.code));
  of.back() = NumGroups(groups.format, groups.columns);
  tensors.push_back(Bytes(absl::StrCat(name, kScaleSuffixOfGroups),
                          DType::kBF16, of, groups.scale));
  if (!groups.format.symmetric) {
    int64_t& rows = of[of.size() - 2];
    rows = NumWords(rows, groups.format.bits);
    tensors.push_back(
        Bytes(absl::StrCat(name, kZeroSuffix), DType::kI32, of, groups.zero));
  }
  const std::vector<int64_t> extents(shape.begin(), shape.end());
  tensors.push_back({absl::StrCat(name, kShapeSuffix),
                     DType::kI64,
                     {static_cast<int64_t>(extents.size())},
                     [extents](TensorToWrite::Append append) {
                       return append(absl::string_view(
                           reinterpret_cast<const char*>(extents.data()),
                           extents.size() * sizeof(int64_t)));
                     }});
  return tensors;
}

absl::StatusOr<std::string> WithQuantizationConfig(
    const std::string& config, const QuantSchemes& schemes,
    const std::vector<std::string>& ignored) {
  RETURN_IF_ERROR(ParseJson(config).status());
  nlohmann::ordered_json json = nlohmann::ordered_json::parse(
      config, /*cb=*/nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) {
    return absl::InvalidArgumentError("config.json is no JSON object");
  }
  nlohmann::ordered_json groups;
  for (const auto& [format, targets] : schemes) {
    groups[absl::StrCat("group_", groups.size())] = Scheme(format, targets);
  }
  json["quantization_config"] = {{"quant_method", "compressed-tensors"},
                                 {"format", "pack-quantized"},
                                 {"quantization_status", "compressed"},
                                 {"config_groups", groups},
                                 {"ignore", ignored},
                                 {"kv_cache_scheme", nullptr}};
  return JsonText(json);
}

}  // namespace strata
