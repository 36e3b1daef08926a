#include "sim/astra/node_queue.h"

#include <cstdint>
#include <optional>
#include <vector>

#include "core/base/check.h"
#include "sim/chakra/chakra.pb.h"
#include "sim/chakra/workload.h"

namespace strata::astra {

NodeQueue::NodeQueue(const std::vector<chakra::TraceNode>& nodes)
    : slot_(nodes.size()),
      state_(nodes.size(), State::kPending),
      num_waiting_(nodes.size()),
      children_(chakra::ListChildren(nodes)) {
  for (size_t i = 0; i < nodes.size(); ++i) {
    if (nodes[i].is_cpu_op) {
      slot_[i] = kCpu;
    } else if (nodes[i].type == ChakraProtoMsg::COMP_NODE) {
      slot_[i] = kCompute;
    } else if (nodes[i].type == ChakraProtoMsg::COMM_RECV_NODE) {
      slot_[i] = kNone;
    } else {
      slot_[i] = kCommunicate;
    }
    num_waiting_[i] = static_cast<uint32_t>(nodes[i].parents.size());
    if (nodes[i].parents.empty()) MakeReady(static_cast<uint32_t>(i));
  }
}

void NodeQueue::BeginPass() {
  in_pass_ = true;
  next_in_pass_ = 0;
}

std::optional<uint32_t> NodeQueue::Take() {
  std::optional<uint32_t> first;
  for (int slot = 0; slot < kNumSlots; ++slot) {
    if (is_busy_[slot]) continue;
    const auto candidate = ready_[slot].lower_bound(next_in_pass_);
    if (candidate == ready_[slot].end()) continue;
    if (!first.has_value() || *candidate < *first) first = *candidate;
  }
  if (!first.has_value()) return std::nullopt;
  next_in_pass_ = *first + 1;
  ready_[slot_[*first]].erase(*first);
  if (slot_[*first] != kNone) is_busy_[slot_[*first]] = true;
  state_[*first] = State::kRunning;
  ++num_running_;
  return first;
}

void NodeQueue::EndPass() {
  in_pass_ = false;
  for (const uint32_t node : became_ready_) MakeReady(node);
  became_ready_.clear();
}

void NodeQueue::Finish(uint32_t node) {
  CHECK(state_[node] == State::kRunning) << node;
  state_[node] = State::kDone;
  is_busy_[slot_[node]] = false;
  --num_running_;
  ++num_done_;
  for (uint32_t c = children_.first[node]; c < children_.first[node + 1]; ++c) {
    const uint32_t child = children_.child[c];
    if (--num_waiting_[child] > 0) continue;
    if (in_pass_) {
      became_ready_.push_back(child);
    } else {
      MakeReady(child);
    }
  }
}

bool NodeQueue::has_ready() const {
  for (const std::set<uint32_t>& ready : ready_) {
    if (!ready.empty()) return true;
  }
  return false;
}

}  // namespace strata::astra
