#include "core/quant/plain_tensors.h"

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/checkpoint/weight_files.h"
#include "core/quant/packed_parameters.h"
#include "core/tensor/bfloat16.h"
#include "core/tensor/dtype.h"
#include "core/tensor/tensor.h"

namespace strata {

bool BecomesBFloat16(const std::string& name, const TensorView& stored) {
  return stored.dtype == DType::kF32 && stored.rank() >= 2 && !IsOfGate(name);
}

void RoundToBFloat16(absl::Span<float> numbers) {
  for (float& x : numbers) x = Widen(RoundToBFloat16(x));
}

TensorToWrite PlainTensor(const std::string& name, const std::string& part,
                          const TensorView& stored) {
  if (!BecomesBFloat16(name, stored)) return AsItIs(part, stored);
  return {part, DType::kBF16, stored.shape,
          [stored](TensorToWrite::Append append) {
            const auto numbers = stored.span<float>();
            std::vector<BFloat16> narrow(numbers.size());
            std::transform(numbers.begin(), numbers.end(), narrow.begin(),
                           [](float x) { return RoundToBFloat16(x); });
            return append(
                absl::string_view(reinterpret_cast<const char*>(narrow.data()),
                                  narrow.size() * sizeof(BFloat16)));
          }};
}

TensorToWrite AsItIs(const std::string& name, const TensorView& tensor) {
  return {name, tensor.dtype, tensor.shape,
          [tensor](TensorToWrite::Append append) {
            return append(absl::string_view(
                static_cast<const char*>(tensor.data), tensor.num_bytes()));
          }};
}

}  // namespace strata
