#include "core/runtime/program_part.h"

#include "absl/strings/string_view.h"
#include "core/graph/graph.h"
#include "core/runtime/program.h"
#include "core/tensor/tensor.h"

namespace strata {

using absl::string_view;

bool ProgramPart::HasInput(string_view name) const {
  return ByName(name, [&](string_view n) { return program_->HasInput(n); });
}

const TensorView& ProgramPart::Input(string_view name) const {
  return ByName(name, [&](string_view n) -> const TensorView& {
    return program_->Input(n);
  });
}

TensorView ProgramPart::Output(string_view name) const {
  return ByName(name, [&](string_view n) { return program_->Output(n); });
}

TensorView ProgramPart::OutputInPlace(string_view name) const {
  return ByName(name,
                [&](string_view n) { return program_->OutputInPlace(n); });
}

void ProgramPart::FillInPlace(string_view input) const {
  ByName(input, [&](string_view n) { program_->FillInPlace(n); });
}

const ValueType& ProgramPart::InputType(string_view name) const {
  const Graph& graph = program_->graph();
  return ByName(name, [&](string_view n) -> const ValueType& {
    return graph.value(graph.FindSource(n)).type;
  });
}

const ValueType& ProgramPart::OutputType(string_view name) const {
  const Graph& graph = program_->graph();
  return ByName(name, [&](string_view n) -> const ValueType& {
    return graph.value(graph.outputs().at(n)).type;
  });
}

}  // namespace strata
