// A backend: where programs run. It has memory and kernels.

#ifndef CORE_RUNTIME_BACKEND_H_
#define CORE_RUNTIME_BACKEND_H_

#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/graph/graph.h"
#include "core/passes/hide_exchanges.h"
#include "core/passes/plan_beside.h"
#include "core/runtime/kernel.h"
#include "core/tensor/dtype.h"
#include "core/tensor/tensor.h"

namespace strata {

// Memory of a backend, zeroed; freed with the object.
class Memory {
 public:
  virtual ~Memory() = default;
  // As the host sees it: where kernels have memory of their own, this is the
  // host's copy, which Backend::ToDevice and ToHost keep in step.
  virtual char* data() const = 0;
};

// A whole graph as a backend runs it that does not run node by node.
class Executable {
 public:
  struct Options {
    bool checked = false;       // As Program::RunChecked().
    double* seconds = nullptr;  // [nodes], if given: time of each is added.
  };

  virtual ~Executable() = default;

  // Takes the inputs from the host's copy, runs all nodes, and waits for all
  // but those that run ahead (Backend::Layout). Counts are then in the host's
  // copy.
  //
  // On error says which node failed, if that can be known.
  virtual absl::Status Run(const Options& options) = 0;

  // Waits for nodes that run ahead. To be called before the next Run().
  virtual absl::Status Finish() { return absl::OkStatus(); }

  // Brings `value` of the latest run, which `tensor` is, to the host's copy.
  virtual absl::Status Fetch(ValueId value, const TensorView& tensor) = 0;

  // Run() takes the input as kernels see it, and no longer from the host's
  // copy. Before the first run.
  virtual void LeaveInput(ValueId value) {}

  // From now on the values that are elsewhere (Backend::Layout) lie at
  // `address` [values]; the others stay.
  virtual absl::Status Move(absl::Span<char* const> address) = 0;
};

class Backend {
 public:
  virtual ~Backend() = default;

  virtual absl::string_view name() const = 0;

  // Returns RESOURCE_EXHAUSTED if memory runs out.
  virtual absl::StatusOr<std::unique_ptr<Memory>> Allocate(
      int64_t num_bytes) = 0;

  // Whether kernels work on what Memory::data() shows.
  virtual bool shares_host_memory() const { return true; }

  // Whether products round F32 operands to BF16: rows that lie between products
  // lose little if they are BF16 in memory (core/passes/bf16_training.h).
  virtual bool rounds_products() const { return false; }

  // Copies what the host's copy of `tensor` holds to where kernels see it, or
  // back. Does nothing where both are one.
  virtual absl::Status ToDevice(const TensorView& tensor) {
    return absl::OkStatus();
  }
  virtual absl::Status ToHost(const TensorView& tensor) {
    return absl::OkStatus();
  }

  // Copies `num_bytes` from one place of its Memory to another, as kernels see
  // both; the host's copies stay as they are. Both are addresses of the host.
  virtual absl::Status Copy(void* to, const void* from, int64_t num_bytes) {
    std::memcpy(to, from, num_bytes);
    return absl::OkStatus();
  }
  // Zeroes `num_bytes` of its Memory, as kernels see them; the host's copy
  // stays as it is.
  virtual absl::Status Clear(void* data, int64_t num_bytes) {
    std::memset(data, 0, num_bytes);
    return absl::OkStatus();
  }
  // The address by which kernels, and communicators of a backend's devices,
  // know what the host knows as `data`. Copies so far are done.
  virtual absl::StatusOr<void*> KernelAddress(void* data) { return data; }

  // Where a graph's values lie, and how its nodes follow one another. All
  // inputs are in one piece of memory, but those that are elsewhere: they are
  // never taken from the host's copy.
  struct Layout {
    absl::Span<char* const> address;     // [values] the host's.
    const std::vector<bool>& elsewhere;  // [values]
    const BesidePlan& beside;            // Of RunsBeside() and RunsTogether().
    // Nodes that the end would wait for, and that make no values, are left to
    // run ahead.
    bool runs_ahead = false;
  };

  // Compiles a graph. Null: this backend runs node by node, through
  // FindKernel() and Run(). The graph, the plan and the memory must outlive the
  // result.
  //
  // Returns UNIMPLEMENTED if a node has no kernel, naming it.
  virtual absl::StatusOr<std::unique_ptr<Executable>> Compile(
      const Graph& graph, const Layout& layout) {
    return nullptr;
  }

  // The kernel that runs `op` on `dtype`; null if there is none.
  virtual Kernel FindKernel(absl::string_view op, DType dtype) const = 0;

  // Runs one node. Shapes are those of this run.
  virtual absl::Status Run(Kernel kernel, const Node& node,
                           absl::Span<const TensorView> inputs,
                           absl::Span<const TensorView> outputs) = 0;

  // Whether a node can run beside those that follow it, through Begin() and
  // Join() (core/runtime/lanes.h) or within an Executable; those of one group
  // of ranks run one after the other.
  virtual bool RunsBeside(const Node& node) const { return false; }

  // The nodes that an Executable begins at once, by few calls for all.
  virtual std::vector<NodeRun> RunsTogether(const Graph& graph) const {
    return {};
  }

  // What its devices compute while a byte is on its way from one to another
  // (core/passes/hide_exchanges.h).
  virtual double flops_per_wire_byte() const { return kFlopsPerWireByte; }

  // Begins a node of which RunsBeside() is true. What it is given stays as it
  // is until it is joined.
  virtual void Begin(Kernel kernel, const Node& node,
                     absl::Span<const TensorView> inputs,
                     absl::Span<const TensorView> outputs) {}

  // Waits for a node that was begun. Returns its error.
  virtual absl::Status Join(const Node& node) { return absl::OkStatus(); }
};

}  // namespace strata

#endif  // CORE_RUNTIME_BACKEND_H_
