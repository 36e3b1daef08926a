// A program: a graph compiled for a backend. Kernels are resolved, the arena is
// laid out, state is bound; running it allocates nothing.
//
//   ASSIGN_OR_RETURN(auto program, Program::Compile(graph, backend, state));
//   fill program->Input("ids") ...
//   RETURN_IF_ERROR(program->Run());
//   read program->Output("loss") ...

#ifndef CORE_RUNTIME_PROGRAM_H_
#define CORE_RUNTIME_PROGRAM_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/passes/plan_beside.h"
#include "core/passes/plan_memory.h"
#include "core/runtime/backend.h"
#include "core/runtime/state_store.h"
#include "core/tensor/tensor.h"

namespace strata {

// Not for several threads at once; kernels use the backend's own threads.
//
// Where the backend can (Backend::RunsBeside), nodes that exchange data run
// beside those that follow (core/passes/plan_beside.h). At the end of a run,
// but of RunAhead(), none is under way.
class Program {
 public:
  // Where in memory of the caller's a value lies.
  struct FramePlace {
    int frame = 0;
    int64_t offset = 0;  // Bytes.
  };
  struct Options {
    bool reuse_memory = true;  // False: the baseline of C4.
    bool runs_ahead = false;   // Nodes may be left to run by RunAhead().
    // Of inputs and outputs that programs hand to one another, by name; no
    // counts of ragged values. Each is at its bounds, and shares its room with
    // nothing else.
    absl::flat_hash_map<std::string, FramePlace> in_frames;
  };

  // Declares the graph's state in `state`; parameters that are there in BF16
  // are read as that (core/passes/narrow_weights.h). `backend` and `state` must
  // outlive the program.
  //
  // Returns UNIMPLEMENTED if a node has no kernel, naming node, operator, dtype
  // and backend.
  static absl::StatusOr<std::unique_ptr<Program>> Compile(Graph graph,
                                                          Backend& backend,
                                                          StateStore& state,
                                                          Options options);
  static absl::StatusOr<std::unique_ptr<Program>> Compile(Graph graph,
                                                          Backend& backend,
                                                          StateStore& state);

  // From now on values of Options::in_frames lie in these frames, the backend's
  // memory, each by its number. To be called before anything else where there
  // are such. Kernels see what is in a frame, not the host's copy of it.
  //
  // Returns the errors of Backend::Compile(), which is asked when the first
  // frames are known, and of Executable::Move().
  absl::Status UseFrames(absl::Span<char* const> frames);

  // An input, to be filled before Run(): same address for the program's life,
  // but in frames; shape at its bounds. The counts of ragged inputs are inputs
  // themselves.
  const TensorView& Input(absl::string_view name) const;
  bool HasInput(absl::string_view name) const;

  // An output of the latest run, in its shape. Valid until the next run.
  TensorView Output(absl::string_view name) const;

  // The same, left where kernels have it: what the host's copy holds is not
  // that of the latest run. For Backend::Copy and KernelAddress.
  TensorView OutputInPlace(absl::string_view name) const;
  // From now on Backend::Copy, or who has the input's KernelAddress, fills it.
  void FillInPlace(absl::string_view input);

  // Runs all nodes. On error says which node failed.
  absl::Status Run();

  // The same, but nodes that run beside others and make no values of the graph
  // (sums of states) may be under way still. Finish() waits for them and
  // returns their first error; until then their states are theirs, no program
  // calls their groups in its own place, and this one does not run again.
  absl::Status RunAhead();
  absl::Status Finish();

  // Runs, looking at every float result: returns OUT_OF_RANGE that names the
  // first operator which made a NaN or an infinity. Slow; for diagnosis.
  absl::Status RunChecked();

  // Counts of the latest run, for CostOf().
  Binding LiveBinding() const;

  // Time spent by operator name since EnableProfile(), largest first.
  struct OpTime {
    std::string op;
    double seconds = 0;
    int64_t runs = 0;
    double flops = 0;  // By the cost functions, at the counts of each run.
  };
  void EnableProfile();
  std::vector<OpTime> Profile() const;

  const Graph& graph() const { return graph_; }
  const MemoryPlan& plan() const { return plan_; }
  // Bytes of inputs and arena; state is the store's.
  int64_t num_bytes() const { return num_bytes_; }

 private:
  // An extent to be set from a count before a node runs.
  struct Patch {
    int tensor = 0;  // Index into tensors_.
    const int32_t* count = nullptr;
  };
  struct Step {
    Kernel kernel = nullptr;
    int first_input = 0;  // Index into tensors_.
    int num_inputs = 0;
    int first_output = 0;
    int num_outputs = 0;
    std::vector<Patch> patches;
    bool beside = false;  // As in BesidePlan.
    std::vector<NodeId> waits_for;
  };

  Program(Graph graph, Backend& backend, StateStore& state)
      : graph_(std::move(graph)), backend_(backend), state_(state) {}

  absl::Status Bind(const Options& options);
  // Learns which values are in frames.
  void FindFramed(const Options& options);
  // Resolves kernels at the addresses that are known by now.
  absl::Status Resolve();
  absl::Status AddStep(NodeId id);
  TensorView ViewOf(ValueId id) const;  // At its bounds.
  absl::Status RunSteps(bool checked, bool ahead = false);
  absl::Status RunStep(NodeId id, bool beside);
  // Waits for those of the steps, or of all, that are under way; returns the
  // first error.
  absl::Status Join(absl::Span<const NodeId> steps);
  absl::Status JoinAll();
  // Of those, the ones that make values.
  absl::Status JoinValues();
  absl::Status RunExecutable(bool checked, bool ahead);
  absl::Status CheckFinite(NodeId id) const;

  const Graph graph_;
  Backend& backend_;
  StateStore& state_;
  MemoryPlan plan_;
  BesidePlan beside_;
  bool runs_ahead_ = false;  // Options::runs_ahead.
  std::unique_ptr<Memory> arena_;
  std::unique_ptr<Memory> inputs_memory_;
  int64_t num_bytes_ = 0;
  std::vector<char*> address_;  // [values]
  absl::flat_hash_map<std::string, TensorView> inputs_;
  std::vector<TensorView> tensors_;  // Operands of all steps.
  std::vector<Step> steps_;
  std::vector<NodeId> under_way_;  // Begun and not joined, in order.
  std::vector<std::pair<ValueId, FramePlace>> framed_;   // Values in frames,
  std::vector<bool> is_framed_;                          // [values]
  std::vector<std::pair<int, ValueId>> framed_tensors_;  // Of tensors_.
  std::unique_ptr<Executable> executable_;  // In place of steps, or null.
  std::vector<ValueId> left_;               // FillInPlace().
  bool profile_ = false;
  std::vector<OpTime> times_;  // [nodes]
};

}  // namespace strata

#endif  // CORE_RUNTIME_PROGRAM_H_
