// Which nodes of a rank can start: those whose parents are done and whose slot
// is free, by ascending id.
//
// A rank has a slot for a CPU operation, one for a GPU computation and one for
// everything else on the GPU; receives need none.

#ifndef SIM_ASTRA_NODE_QUEUE_H_
#define SIM_ASTRA_NODE_QUEUE_H_

#include <cstdint>
#include <optional>
#include <set>
#include <vector>

#include "sim/chakra/workload.h"

namespace strata::astra {

class NodeQueue {
 public:
  // `nodes` are sorted by id, have no cycles, and must outlive it.
  explicit NodeQueue(const std::vector<chakra::TraceNode>& nodes);

  // One pass over the ready nodes: what becomes ready within it waits for the
  // next.
  //
  //   queue.BeginPass();
  //   while (const std::optional<uint32_t> node = queue.Take()) Start(*node);
  //   queue.EndPass();
  void BeginPass();
  std::optional<uint32_t> Take();
  void EndPass();

  // The node is done: its slot is free, and children whose last parent it was
  // are ready.
  void Finish(uint32_t node);

  bool has_ready() const;
  int64_t num_running() const { return num_running_; }
  bool all_done() const { return num_done_ == state_.size(); }
  bool is_running(uint32_t node) const {
    return state_[node] == State::kRunning;
  }

 private:
  enum Slot { kCpu, kCompute, kCommunicate, kNone, kNumSlots };
  enum class State : uint8_t { kPending, kRunning, kDone };

  void MakeReady(uint32_t node) { ready_[slot_[node]].insert(node); }

  std::vector<uint8_t> slot_;          // [node]
  std::vector<State> state_;           // [node]
  std::vector<uint32_t> num_waiting_;  // [node] Parents that are not done.
  chakra::ChildLists children_;
  std::set<uint32_t> ready_[kNumSlots];
  bool is_busy_[kNumSlots] = {false, false, false, false};
  bool in_pass_ = false;
  uint32_t next_in_pass_ = 0;           // Nodes before it have had their turn.
  std::vector<uint32_t> became_ready_;  // Within the pass.
  int64_t num_running_ = 0;
  size_t num_done_ = 0;
};

}  // namespace strata::astra

#endif  // SIM_ASTRA_NODE_QUEUE_H_
