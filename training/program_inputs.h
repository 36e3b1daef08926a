// What a trainer's programs are given and give: scalars in the program's own
// precision, and how a batch is laid out.

#ifndef TRAINING_PROGRAM_INPUTS_H_
#define TRAINING_PROGRAM_INPUTS_H_

#include <cstdint>

#include "absl/strings/string_view.h"
#include "core/runtime/program.h"
#include "core/runtime/program_part.h"

namespace strata {

// The input, which is F32 or F64, likewise the output.
void SetScalar(const ProgramPart& program, absl::string_view name,
               double value);
double Scalar(const Program& program, absl::string_view name);

// Positions and sequence starts of `n` sequences of `seq_len` tokens. A part of
// a graph may have none of them.
void FillLayout(const ProgramPart& program, int64_t n, int64_t seq_len);

}  // namespace strata

#endif  // TRAINING_PROGRAM_INPUTS_H_
