// A part of a joined program (core/passes/join_graphs.h), by the names that its
// inputs and outputs have in its own graph.

#ifndef CORE_RUNTIME_PROGRAM_PART_H_
#define CORE_RUNTIME_PROGRAM_PART_H_

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/graph/graph.h"
#include "core/runtime/program.h"
#include "core/tensor/tensor.h"

namespace strata {

// A copy is the same part; the program must outlive it.
class ProgramPart {
 public:
  // The whole of a program is a part too.
  ProgramPart(Program& program)  // NOLINT(google-explicit-constructor)
      : program_(&program) {}
  // `prefix`: that of JoinPart.
  ProgramPart(Program& program, absl::string_view prefix)
      : program_(&program), prefix_(prefix) {}

  // As Program has them.
  bool HasInput(absl::string_view name) const;
  const TensorView& Input(absl::string_view name) const;
  TensorView Output(absl::string_view name) const;
  TensorView OutputInPlace(absl::string_view name) const;
  void FillInPlace(absl::string_view input) const;

  const ValueType& InputType(absl::string_view name) const;
  const ValueType& OutputType(absl::string_view name) const;
  Program& program() const { return *program_; }

 private:
  // Calls `use` with the name in the program; the whole's without a copy.
  template <typename Use>
  decltype(auto) ByName(absl::string_view name, const Use& use) const {
    return prefix_.empty() ? use(name) : use(absl::StrCat(prefix_, name));
  }

  Program* program_;
  std::string prefix_;
};

}  // namespace strata

#endif  // CORE_RUNTIME_PROGRAM_PART_H_
