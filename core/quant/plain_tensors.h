// The tensors of a quantised model that are not quantised: stored as they are,
// but matrices of F32 that are no gate's become BF16.

#ifndef CORE_QUANT_PLAIN_TENSORS_H_
#define CORE_QUANT_PLAIN_TENSORS_H_

#include <string>

#include "absl/types/span.h"
#include "core/checkpoint/weight_files.h"
#include "core/tensor/tensor.h"

namespace strata {

// Of the model's tensor `name`, a part of which is stored as `stored`.
bool BecomesBFloat16(const std::string& name, const TensorView& stored);

// Each number becomes what it is in BF16.
void RoundToBFloat16(absl::Span<float> numbers);

// Part `part` of tensor `name`. The memory of `stored` must outlive what is
// returned.
TensorToWrite PlainTensor(const std::string& name, const std::string& part,
                          const TensorView& stored);

// The bytes of `tensor`, under that name; likewise.
TensorToWrite AsItIs(const std::string& name, const TensorView& tensor);

}  // namespace strata

#endif  // CORE_QUANT_PLAIN_TENSORS_H_
