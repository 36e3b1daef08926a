#include "core/runtime/kernel_registry.h"

#include <string>

#include "absl/strings/string_view.h"
#include "core/base/check.h"
#include "core/graph/op_def.h"

namespace strata {

DType KernelDType(const Graph& graph, const Node& node) {
  for (const ValueId input : node.inputs) {
    if (input == kNone) continue;
    const DType dtype = graph.value(input).type.dtype;
    if (IsFloat(dtype)) return dtype;
  }
  for (const ValueId output : node.outputs) {
    const DType dtype = graph.value(output).type.dtype;
    if (IsFloat(dtype)) return dtype;
  }
  return DType::kI32;
}

void KernelRegistry::Register(const OpDef& op, DType dtype, Kernel kernel) {
  const bool added =
      kernels_
          .try_emplace({std::string(op.name), static_cast<int>(dtype)}, kernel)
          .second;
  CHECK(added) << "two kernels for " << op.name << " " << Name(dtype);
}

Kernel KernelRegistry::Find(absl::string_view op, DType dtype) const {
  const auto it = kernels_.find({std::string(op), static_cast<int>(dtype)});
  return it == kernels_.end() ? nullptr : it->second;
}

}  // namespace strata
