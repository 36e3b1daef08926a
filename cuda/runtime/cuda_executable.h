// A graph compiled for the GPU: launches in node order, then one captured
// graph.

#ifndef CUDA_RUNTIME_CUDA_EXECUTABLE_H_
#define CUDA_RUNTIME_CUDA_EXECUTABLE_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/graph/graph.h"
#include "core/passes/plan_beside.h"
#include "core/runtime/backend.h"
#include "cuda/runtime/device_array.h"
#include "cuda/runtime/device_scratch.h"
#include "cuda/runtime/fault.h"
#include "cuda/runtime/kernel.h"
#include "cuda/runtime/pack.h"
#include "cuda/runtime/rank_group.h"
#include "cuda/runtime/side_lanes.h"
#include "cuda/runtime/wait_clock.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

class CudaBackend;

class CudaExecutable : public Executable {
 public:
  // As of Backend::Compile(). `backend` must outlive it too.
  static absl::StatusOr<std::unique_ptr<CudaExecutable>> Create(
      const Graph& graph, const Backend::Layout& layout, CudaBackend& backend);
  ~CudaExecutable() override;

  absl::Status Run(const Options& options) override;
  absl::Status Finish() override { return lanes_.Wait(groups_); }
  absl::Status Fetch(ValueId value, const TensorView& tensor) override;
  void LeaveInput(ValueId value) override;
  absl::Status Move(absl::Span<char* const> address) override;

 private:
  // The program at one set of places of values that are elsewhere.
  struct Captured {
    // None until the second run. Between them a node begins that runs ahead: a
    // graph ends when all of it has, so it is in none.
    std::vector<cudaGraphExec_t> parts;
    // Whether constants are made in each run of it; else by themselves, where
    // parameters are no longer those of constants_version_.
    bool constants = false;
  };
  struct Step {
    OpKernels kernels;
    std::vector<Operand> inputs;
    std::vector<Operand> outputs;
    std::vector<int> makers;  // [inputs] nodes, or -1.
    bool constant = false;    // A function of parameters alone.
  };
  // Neighbouring nodes that do not depend on each other, run by few calls of
  // their kernels, each of which has the inputs and outputs of several.
  struct Together {
    NodeId end = 0;            // Behind the last.
    std::vector<NodeId> like;  // [calls] a node of the call.
    std::vector<Step> calls;
  };
  enum class Part {
    kAll,
    kConstants,  // Constant steps, and what the others prepare.
    kRest,
  };
  // What each run says of itself. Results come packed behind it.
  struct Report {
    Fault fault;
    WaitClock waits;
  };
  // Inputs that the host fills, one behind the other.
  struct Range {
    int64_t offset = 0;  // In the block of inputs.
    int64_t num_bytes = 0;
  };
  // A result that comes to the host with every run.
  struct Small {
    char* host = nullptr;
    int64_t offset = 0;  // In the packed block.
    int64_t num_bytes = 0;
  };

  CudaExecutable(const Graph& graph, const BesidePlan& beside,
                 CudaBackend& backend)
      : graph_(graph), beside_(beside), backend_(backend) {}

  absl::Status Bind(absl::Span<char* const> address);
  absl::Status BindInputs(absl::Span<char* const> address);
  void BindTakenInputs();
  absl::Status BindResults(absl::Span<char* const> address);
  absl::Status BindConstants();
  // Learns which groups of ranks the program waits for.
  void FindGroups();
  // Steps with operands at the places of now, if they are of others.
  absl::Status BindSteps();
  absl::StatusOr<Step> BindStep(NodeId id) const;
  void BindTogether();
  Operand OperandOf(ValueId value, NodeId user) const;

  // Enqueues a part of the program, with inputs and results unless that is
  // constants. With `options` not null waits after each operator, so that an
  // error names it.
  absl::Status Enqueue(Part part, const Options* options);
  absl::Status EnqueueSteps(Part part, const Options* options);
  absl::Status EnqueueStep(NodeId id, Kernel kernel, cudaStream_t stream) {
    return EnqueueCall(id, steps_[id], kernel, stream);
  }
  absl::Status EnqueueCall(NodeId id, const Step& step, Kernel kernel,
                           cudaStream_t stream);
  absl::Status EnqueueTogether(Part part, NodeId first,
                               const Together& together);
  // Whether a part of the program has the step.
  static bool Has(Part part, const Step& step) {
    return part == Part::kAll || step.constant == (part == Part::kConstants);
  }
  // A step on its lane. It may take no scratch memory, which is the steps' that
  // run meanwhile.
  absl::Status EnqueueBeside(NodeId id);
  // Lets what follows wait for what `id` does.
  absl::Status JoinBefore(NodeId id);
  bool RunsAhead(NodeId id) const;
  absl::Status CheckFinite(NodeId id) const;
  absl::Status Poison();
  absl::Status Capture(Captured& captured);
  absl::Status BeginPart();
  absl::Status EndPart();
  absl::Status Launch(const Captured& captured);
  // Waits for the stream. `what` is said of a rank that does not come.
  absl::Status Wait(absl::string_view what);
  absl::Status ReadResults();

  const Graph& graph_;
  const BesidePlan& beside_;
  CudaBackend& backend_;
  std::vector<char*> device_;            // [values]
  std::vector<ValueId> elsewhere_;       // Values that may move,
  std::vector<char*> places_;            // where they are,
  std::vector<char*> bound_places_;      // and where steps_ have them.
  std::vector<Step> steps_;              // [nodes]
  std::map<NodeId, Together> together_;  // By the first node.
  std::vector<bool> is_constant_;        // [nodes]
  std::vector<bool> is_left_;  // [values] inputs that are on the device.
  std::vector<std::unique_ptr<DeviceArray<char>>> constants_;
  bool updates_parameters_ = false;
  bool alone_ = false;  // Some step's kernel is (OpKernels::alone).
  DeviceScratch scratch_;
  int num_runs_ = 0;
  std::map<std::vector<char*>, Captured> captured_;  // By places_.
  int64_t constants_version_ = -1;
  Captured* capturing_ = nullptr;  // Where parts go, while there is a capture.
  std::vector<RankGroup*> groups_;
  SideLanes lanes_;
  std::vector<NodeId> ahead_;  // Nodes that run ahead, in order.

  // Inputs lie in one block.
  char* inputs_ = nullptr;         // The host's.
  char* device_inputs_ = nullptr;  // Its twin.
  char* staged_inputs_ = nullptr;  // Pinned.
  int64_t input_bytes_ = 0;
  std::vector<Range> taken_inputs_;

  std::vector<Small> small_;
  std::vector<bool> is_small_;  // [values]
  std::unique_ptr<DeviceArray<PackEntry>> entries_;
  std::unique_ptr<DeviceArray<Report>> report_;
  std::unique_ptr<DeviceArray<char>> packed_;
  char* staged_results_ = nullptr;  // Pinned; begins with the Report.
  int64_t packed_bytes_ = 0;
};

}  // namespace strata::gpu

#endif  // CUDA_RUNTIME_CUDA_EXECUTABLE_H_
