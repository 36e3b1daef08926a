#include "core/runtime/observed_backend.h"

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/base/status_macros.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/runtime/backend.h"
#include "core/runtime/kernel.h"
#include "core/tensor/dtype.h"
#include "core/tensor/tensor.h"

namespace strata {
namespace {

class ObservedBackend : public Backend {
 public:
  ObservedBackend(std::unique_ptr<Backend> inner, NodeObserver& observer)
      : inner_(std::move(inner)), observer_(observer) {}

  absl::string_view name() const override { return inner_->name(); }
  absl::StatusOr<std::unique_ptr<Memory>> Allocate(int64_t num_bytes) override {
    return inner_->Allocate(num_bytes);
  }
  bool shares_host_memory() const override {
    return inner_->shares_host_memory();
  }
  bool rounds_products() const override { return inner_->rounds_products(); }
  absl::Status ToDevice(const TensorView& tensor) override {
    return inner_->ToDevice(tensor);
  }
  absl::Status ToHost(const TensorView& tensor) override {
    return inner_->ToHost(tensor);
  }
  absl::Status Copy(void* to, const void* from, int64_t num_bytes) override {
    return inner_->Copy(to, from, num_bytes);
  }
  absl::Status Clear(void* data, int64_t num_bytes) override {
    return inner_->Clear(data, num_bytes);
  }
  absl::StatusOr<void*> KernelAddress(void* data) override {
    return inner_->KernelAddress(data);
  }
  Kernel FindKernel(absl::string_view op, DType dtype) const override {
    return inner_->FindKernel(op, dtype);
  }

  // Learns where the counts of the graph's nodes are.
  absl::StatusOr<std::unique_ptr<Executable>> Compile(
      const Graph& graph, const Layout& layout) override {
    ASSIGN_OR_RETURN(std::unique_ptr<Executable> executable,
                     inner_->Compile(graph, layout));
    if (executable != nullptr) return executable;
    const auto place = std::make_shared<const Place>(
        Place{&graph, {layout.address.begin(), layout.address.end()}});
    for (const Node& node : graph.nodes()) places_[&node] = place;
    return nullptr;
  }

  absl::Status Run(Kernel kernel, const Node& node,
                   absl::Span<const TensorView> inputs,
                   absl::Span<const TensorView> outputs) override {
    observer_.Begin(node);
    RETURN_IF_ERROR(inner_->Run(kernel, node, inputs, outputs));
    observer_.End(node, CostOfRun(node));
    return absl::OkStatus();
  }

  bool RunsBeside(const Node& node) const override {
    return inner_->RunsBeside(node);
  }
  double flops_per_wire_byte() const override {
    return inner_->flops_per_wire_byte();
  }
  void Begin(Kernel kernel, const Node& node,
             absl::Span<const TensorView> inputs,
             absl::Span<const TensorView> outputs) override {
    observer_.Start(node, CostOfRun(node));
    inner_->Begin(kernel, node, inputs, outputs);
  }
  absl::Status Join(const Node& node) override {
    observer_.Wait(node);
    RETURN_IF_ERROR(inner_->Join(node));
    observer_.Join(node);
    return absl::OkStatus();
  }

 private:
  struct Place {
    const Graph* graph;
    std::vector<char*> address;  // [values]
  };

  Cost CostOfRun(const Node& node) const {
    const auto found = places_.find(&node);
    if (found == places_.end()) return {};
    const Place& place = *found->second;
    return CostOf(*place.graph, node, [&](ValueId count, int64_t bound) {
      return static_cast<double>(
          *reinterpret_cast<const int32_t*>(place.address[count]));
    });
  }

  const std::unique_ptr<Backend> inner_;
  NodeObserver& observer_;
  // Of programs that are gone the nodes stay here, and are asked for no more.
  absl::flat_hash_map<const Node*, std::shared_ptr<const Place>> places_;
};

}  // namespace

std::unique_ptr<Backend> Observed(std::unique_ptr<Backend> backend,
                                  NodeObserver& observer) {
  return std::make_unique<ObservedBackend>(std::move(backend), observer);
}

}  // namespace strata
