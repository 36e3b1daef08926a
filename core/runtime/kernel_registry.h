// Which kernel runs which operator, by (operator, dtype).

#ifndef CORE_RUNTIME_KERNEL_REGISTRY_H_
#define CORE_RUNTIME_KERNEL_REGISTRY_H_

#include <string>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/graph/op_def.h"
#include "core/runtime/kernel.h"
#include "core/tensor/dtype.h"

namespace strata {

// The dtype that selects a node's kernel: of its first input or, failing that,
// output of floating point; I32 where a node has none.
DType KernelDType(const Graph& graph, const Node& node);

class KernelRegistry {
 public:
  void Register(const OpDef& op, DType dtype, Kernel kernel);

  // Says that nodes of `op`, which have an attribute "group", may run beside
  // others (core/runtime/lanes.h).
  void AllowBeside(const OpDef& op) { beside_.insert(std::string(op.name)); }
  bool MayRunBeside(absl::string_view op) const { return beside_.contains(op); }

  // Null if there is none.
  Kernel Find(absl::string_view op, DType dtype) const;

 private:
  absl::flat_hash_map<std::pair<std::string, int>, Kernel> kernels_;
  absl::flat_hash_set<std::string> beside_;
};

}  // namespace strata

#endif  // CORE_RUNTIME_KERNEL_REGISTRY_H_
