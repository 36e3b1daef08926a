#include "training/program_inputs.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "absl/strings/string_view.h"
#include "core/runtime/program.h"
#include "core/runtime/program_part.h"
#include "core/tensor/dtype.h"
#include "core/tensor/tensor.h"

namespace strata {

void SetScalar(const ProgramPart& program, absl::string_view name,
               double value) {
  const TensorView& input = program.Input(name);
  if (input.dtype == DType::kF64) {
    *input.as<double>() = value;
  } else {
    *input.as<float>() = static_cast<float>(value);
  }
}

double Scalar(const Program& program, absl::string_view name) {
  const TensorView& output = program.Output(name);
  return output.dtype == DType::kF64 ? *output.as<double>()
                                     : *output.as<float>();
}

void FillLayout(const ProgramPart& program, int64_t n, int64_t seq_len) {
  if (program.HasInput("num_tokens")) {
    *program.Input("num_tokens").as<int32_t>() =
        static_cast<int32_t>(n * seq_len);
  }
  if (program.HasInput("position")) {
    int32_t* position = program.Input("position").as<int32_t>();
    for (int64_t i = 0; i < n * seq_len; ++i) {
      position[i] = static_cast<int32_t>(i % seq_len);
    }
  }
  if (!program.HasInput("seq_start")) return;
  const auto seq_start = program.Input("seq_start").span<int32_t>();
  for (size_t s = 0; s < seq_start.size(); ++s) {
    seq_start[s] = static_cast<int32_t>(std::min<int64_t>(s, n) * seq_len);
  }
}

}  // namespace strata
