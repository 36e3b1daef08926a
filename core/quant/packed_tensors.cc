#include "core/quant/packed_tensors.h"

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/base/status_macros.h"
#include "core/checkpoint/stored_tensor.h"
#include "core/quant/format.h"
#include "core/quant/packed_rows.h"
#include "core/quant/stored_groups.h"
#include "core/tensor/bfloat16.h"
#include "core/tensor/dtype.h"
#include "core/tensor/shape.h"
#include "core/tensor/tensor.h"

namespace strata {
namespace {

constexpr int64_t kMaxExtent = int64_t{1} << 31;

// The parts of one weight.
class Merger {
 public:
  Merger(const std::string& where, const std::string& name,
         const StoredTensors& tensors)
      : where_(where), name_(name), tensors_(tensors) {}

  absl::Status Merge(StoredTensor& merged) {
    if (Find("_g_idx") != nullptr) {
      return absl::UnimplementedError(
          absl::StrCat(where_, ": tensor \"", name_,
                       "\" has its columns in another order (weight_g_idx), "
                       "which is not supported"));
    }
    Shape shape;
    RETURN_IF_ERROR(ReadShape(shape));
    const int64_t columns = shape.back(), rows = shape[shape.size() - 2];
    const TensorView* const code = Find(kPackedSuffix);
    const TensorView* const scale = Find(kScaleSuffixOfGroups);
    const TensorView* const zero = Find(kZeroSuffix);
    QuantFormat format;
    format.symmetric = zero == nullptr;
    Shape want = shape;
    if (code->shape.size() == shape.size()) {
      for (const int bits : {2, 4, 8}) {
        if (code->shape.back() == NumWords(columns, bits)) format.bits = bits;
      }
    }
    want.back() = NumWords(columns, format.bits);
    RETURN_IF_ERROR(Want(code, kPackedSuffix, DType::kI32, want));
    if (scale == nullptr || scale->shape.size() != shape.size() ||
        scale->shape.back() < 1) {
      return Error(absl::StrCat("has no scales; want BF16 \"", name_,
                                kScaleSuffixOfGroups, "\" of its rank"));
    }
    const int64_t groups = scale->shape.back();
    format.group = groups == 1 ? 0 : columns / groups;
    for (const int64_t group : {32, 64, 128}) {
      if (columns == group * groups) format.group = group;
    }
    const absl::Status fits = CheckFormat(name_, format, columns);
    if (!fits.ok() || NumGroups(format, columns) != groups) {
      return Error(absl::StrCat("has ", groups, " scales for ", columns,
                                " columns; want groups of 32, 64 or 128, or "
                                "one scale a row"));
    }
    want.back() = groups;
    RETURN_IF_ERROR(Want(scale, kScaleSuffixOfGroups, DType::kBF16, want));
    if (zero != nullptr) {
      want[want.size() - 2] = NumWords(rows, format.bits);
      RETURN_IF_ERROR(Want(zero, kZeroSuffix, DType::kI32, want));
      if (shape.size() > 2 && !RowsFillWords(format, rows)) {
        return Error(absl::StrCat("has zeros of ", rows,
                                  " rows an expert; want a multiple of ",
                                  32 / format.bits));
      }
    }
    merged.packing = StoredTensor::Packing::kGroups;
    merged.view = {DType::kF32, shape, code->data};
    merged.groups = {
        format, columns, static_cast<const uint32_t*>(code->data),
        static_cast<const BFloat16*>(scale->data),
        zero == nullptr ? nullptr : static_cast<const uint32_t*>(zero->data)};
    return absl::OkStatus();
  }

 private:
  const TensorView* Find(absl::string_view suffix) const {
    const auto it = tensors_.find(absl::StrCat(name_, suffix));
    return it == tensors_.end() ? nullptr : &it->second.view;
  }

  absl::Status Error(absl::string_view what) const {
    return absl::InvalidArgumentError(
        absl::StrCat(where_, ": quantised tensor \"", name_, "\" ", what));
  }

  absl::Status Want(const TensorView* tensor, absl::string_view suffix,
                    DType dtype, const Shape& shape) const {
    if (tensor != nullptr && tensor->dtype == dtype && tensor->shape == shape) {
      return absl::OkStatus();
    }
    return Error(absl::StrCat(
        "is in \"", name_, suffix, "\", which is ",
        tensor == nullptr
            ? "missing"
            : absl::StrCat(Name(tensor->dtype), ToString(tensor->shape)),
        "; want ", Name(dtype), ToString(shape)));
  }

  absl::Status ReadShape(Shape& shape) const {
    const TensorView* const view = Find(kShapeSuffix);
    if (view == nullptr || view->rank() != 1 || view->dim(0) < 2 ||
        view->dim(0) > 3 ||
        (view->dtype != DType::kI64 && view->dtype != DType::kI32)) {
      return Error(absl::StrCat("does not say its shape; want I64 \"", name_,
                                kShapeSuffix, "\" of 2 or 3 numbers"));
    }
    for (int64_t i = 0; i < view->dim(0); ++i) {
      int64_t extent = 0;
      if (view->dtype == DType::kI64) {
        std::memcpy(&extent, static_cast<const char*>(view->data) + 8 * i, 8);
      } else {
        int32_t narrow;
        std::memcpy(&narrow, static_cast<const char*>(view->data) + 4 * i, 4);
        extent = narrow;
      }
      if (extent < 1 || extent > kMaxExtent) {
        return Error(absl::StrCat("has an extent of ", extent, "; want 1 to ",
                                  kMaxExtent));
      }
      shape.push_back(extent);
    }
    return absl::OkStatus();
  }

  const std::string& where_;
  const std::string& name_;
  const StoredTensors& tensors_;
};

}  // namespace

absl::Status MergePackedTensors(const std::string& where,
                                StoredTensors& tensors) {
  std::vector<std::string> names;
  for (const auto& [name, tensor] : tensors) {
    if (absl::EndsWith(name, kPackedSuffix)) {
      names.push_back(name.substr(0, name.size() - strlen(kPackedSuffix)));
    }
  }
  for (const std::string& name : names) {
    if (tensors.count(name) > 0) {
      return absl::InvalidArgumentError(absl::StrCat(
          where, ": tensor \"", name, "\" is there quantised and as it is"));
    }
    StoredTensor merged;
    RETURN_IF_ERROR(Merger(where, name, tensors).Merge(merged));
    for (const char* const suffix :
         {kPackedSuffix, kScaleSuffixOfGroups, kZeroSuffix, kShapeSuffix}) {
      tensors.erase(absl::StrCat(name, suffix));
    }
    tensors[name] = merged;
  }
  return absl::OkStatus();
}

int64_t StoredBytes(const StoredTensor& tensor) {
  const QuantFormat& format = tensor.groups.format;
  const Shape& shape = tensor.view.shape;
  const int64_t columns = shape.back(), rows = shape[shape.size() - 2];
  const int64_t matrices = tensor.view.num_elements() / rows / columns;
  const int64_t groups = NumGroups(format, columns);
  int64_t bytes = rows * (4 * NumWords(columns, format.bits) + 2 * groups);
  if (!format.symmetric) bytes += 4 * NumWords(rows, format.bits) * groups;
  return matrices * bytes;
}

absl::Status PackTensorRow(const std::string& name, const StoredTensor& tensor,
                           int64_t row, const QuantFormat& format,
                           uint8_t* out) {
  const StoredGroups& groups = tensor.groups;
  const int64_t num_groups = NumGroups(groups.format, groups.columns);
  for (int64_t g = row * num_groups; g < (row + 1) * num_groups; ++g) {
    if (IsFinite(groups.scale[g])) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("scale ", g, " of tensor \"", name,
                     "\" is a NaN or an infinity; want finite weights"));
  }
  PackStoredRow(groups, row, format, out);
  return absl::OkStatus();
}

}  // namespace strata
