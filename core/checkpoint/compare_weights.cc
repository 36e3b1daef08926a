#include "core/checkpoint/compare_weights.h"

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <set>
#include <string>
#include <system_error>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/base/status_macros.h"
#include "core/checkpoint/hf_fields.h"
#include "core/checkpoint/shards/expert_parts.h"
#include "core/checkpoint/stored_tensor.h"
#include "core/checkpoint/weight_files.h"
#include "core/tensor/dtype.h"
#include "core/tensor/shape.h"
#include "core/tensor/tensor.h"

namespace strata {
namespace {

absl::StatusOr<WeightFiles> OpenAny(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::is_directory(path, ignored)
             ? WeightFiles::Open(path)
             : WeightFiles::OpenFile(path);
}

std::string TypeOf(const TensorView& view) {
  return absl::StrCat(Name(view.dtype), ToString(view.shape));
}

// The same of tensors that are packed, one of them or both: by their numbers.
absl::StatusOr<std::string> DifferenceOfNumbers(const std::string& name,
                                                const StoredTensor& a,
                                                const StoredTensor& b) {
  if (a.view.shape != b.view.shape) {
    return absl::StrCat("is ", TypeOf(a.view), " in the first, ",
                        TypeOf(b.view), " in the second");
  }
  const int64_t n = a.view.num_elements();
  std::vector<float> x(n), y(n);
  RETURN_IF_ERROR(ReadNumbers<float>(name, a, /*scale=*/nullptr, x.data()));
  RETURN_IF_ERROR(ReadNumbers<float>(name, b, /*scale=*/nullptr, y.data()));
  int64_t first = -1, count = 0;
  double energy = 0, error = 0;
  for (int64_t i = 0; i < n; ++i) {
    energy += double{x[i]} * x[i];
    error += (double{x[i]} - y[i]) * (double{x[i]} - y[i]);
    if (x[i] == y[i]) continue;
    if (first < 0) first = i;
    ++count;
  }
  if (count == 0) return "";
  return absl::StrCat("is quantised and differs in ", count, " of ", n,
                      " numbers, first in ", first, ", by ",
                      energy > 0 ? 100 * error / energy : 100,
                      " % of their energy");
}

// How two tensors differ; "" if they do not.
std::string Difference(const TensorView& a, const TensorView& b) {
  if (a.dtype != b.dtype || a.shape != b.shape) {
    return absl::StrCat("is ", TypeOf(a), " in the first, ", TypeOf(b),
                        " in the second");
  }
  const int64_t bytes = a.num_bytes();
  if (bytes == 0 || std::memcmp(a.data, b.data, bytes) == 0) return "";
  const char* const x = static_cast<const char*>(a.data);
  const char* const y = static_cast<const char*>(b.data);
  const int size = SizeOf(a.dtype);
  int64_t first = -1, count = 0;
  for (int64_t i = 0; i < bytes / size; ++i) {
    if (std::memcmp(x + i * size, y + i * size, size) == 0) continue;
    if (first < 0) first = i;
    ++count;
  }
  return absl::StrCat("differs in ", count, " of ", bytes / size,
                      " elements, first in element ", first);
}

}  // namespace

absl::StatusOr<WeightComparison> CompareWeights(
    const std::string& a, const std::string& b,
    const std::function<void(int64_t done, int64_t all)>& progress) {
  ASSIGN_OR_RETURN(const WeightFiles first, OpenAny(a));
  ASSIGN_OR_RETURN(const WeightFiles second, OpenAny(b));
  // One may have a gate's experts in a tensor, the other in one each.
  StoredTensors in_a = first.tensors(), in_b = second.tensors();
  SplitAsIn(in_b, in_a);
  SplitAsIn(in_a, in_b);
  std::set<std::string> names;
  for (const auto& [name, tensor] : in_a) names.insert(name);
  for (const auto& [name, tensor] : in_b) names.insert(name);
  WeightComparison result;
  int64_t done = 0;
  for (const std::string& name : names) {
    const auto in_first = in_a.find(name);
    const auto in_second = in_b.find(name);
    std::string difference;
    if (in_first == in_a.end()) {
      difference = "is only in the second";
    } else if (in_second == in_b.end()) {
      difference = "is only in the first";
    } else if (in_first->second.packing != StoredTensor::Packing::kNone ||
               in_second->second.packing != StoredTensor::Packing::kNone) {
      ASSIGN_OR_RETURN(difference, DifferenceOfNumbers(name, in_first->second,
                                                       in_second->second));
    } else {
      difference = Difference(in_first->second.view, in_second->second.view);
    }
    if (difference.empty()) {
      ++result.num_equal;
      result.num_bytes += in_first->second.view.num_bytes();
    } else {
      result.differences.push_back(
          absl::StrCat("tensor ", Shown(name), " ", difference));
    }
    if (progress) progress(++done, static_cast<int64_t>(names.size()));
  }
  return result;
}

}  // namespace strata
