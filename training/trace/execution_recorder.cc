#include "training/trace/execution_recorder.h"

#include <chrono>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "core/base/files.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/parallel/communicator.h"
#include "core/parallel/observed_communicator.h"
#include "sim/chakra/attributes.h"
#include "sim/chakra/chakra.pb.h"
#include "sim/chakra/trace_writer.h"

namespace strata {
namespace {

// A barrier carries a flag.
constexpr int64_t kBarrierBytes = 4;

double SteadySeconds() {
  return std::chrono::duration<double>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

absl::string_view NameOf(CommCall::Kind kind) {
  switch (kind) {
    case CommCall::Kind::kAllReduce:
      return "AllReduce";
    case CommCall::Kind::kAllGather:
      return "AllGather";
    case CommCall::Kind::kReduceScatter:
      return "ReduceScatter";
    case CommCall::Kind::kAllToAll:
      return "AllToAll";
    case CommCall::Kind::kBroadcast:
      return "Broadcast";
    case CommCall::Kind::kSend:
      return "Send";
    case CommCall::Kind::kReceive:
      return "Receive";
    case CommCall::Kind::kBarrier:
      return "Barrier";
  }
  return "";
}

int ChakraType(CommCall::Kind kind) {
  switch (kind) {
    case CommCall::Kind::kAllReduce:
      return ChakraProtoMsg::ALL_REDUCE;
    case CommCall::Kind::kAllGather:
      return ChakraProtoMsg::ALL_GATHER;
    case CommCall::Kind::kReduceScatter:
      return ChakraProtoMsg::REDUCE_SCATTER;
    case CommCall::Kind::kBroadcast:
      return ChakraProtoMsg::BROADCAST;
    default:
      return ChakraProtoMsg::BARRIER;
  }
}

// comm_size: the whole buffer, of an all-gather a rank's shard.
int64_t ChakraBytes(const CommCall& call) {
  const auto size = static_cast<int64_t>(call.group->ranks.size());
  switch (call.kind) {
    case CommCall::Kind::kAllGather:
      return (call.bytes + size - 1) / size;
    case CommCall::Kind::kBarrier:
      return kBarrierBytes;
    default:
      return call.bytes;
  }
}

// Says who is in the group, as PyTorch's traces do.
ChakraProtoMsg::Node GroupNode(uint64_t id, const RankGroup& group) {
  ChakraProtoMsg::Node node;
  node.set_id(id);
  node.set_name("## process_group:init ##");
  node.set_type(ChakraProtoMsg::METADATA_NODE);
  node.mutable_inputs()->set_values(absl::StrCat(
      "[{\"pg_name\": \"", group.number, "\", \"pg_desc\": \"", group.name,
      "\", \"ranks\": [", absl::StrJoin(group.ranks, ", "), "]}]"));
  return node;
}

}  // namespace

ExecutionRecorder::ExecutionRecorder(int rank, Clock clock)
    : rank_(rank), clock_(clock ? std::move(clock) : SteadySeconds) {}

void ExecutionRecorder::Start() {
  absl::MutexLock lock(&mutex_);
  entries_.clear();
  groups_.clear();
  lanes_.clear();
  parents_.clear();
  cut_ = 0;
  is_recording_ = true;
  begin_ = clock_();
}

void ExecutionRecorder::Stop() {
  absl::MutexLock lock(&mutex_);
  Cut(Kind::kHost, "host", 0, 0);
  seconds_ = clock_() - begin_;
  is_recording_ = false;
}

bool ExecutionRecorder::is_recording() const {
  absl::MutexLock lock(&mutex_);
  return is_recording_;
}

int64_t ExecutionRecorder::Now() const {
  return static_cast<int64_t>((clock_() - begin_) * 1e6);
}

ExecutionRecorder::Entry& ExecutionRecorder::Add(Kind kind,
                                                 absl::string_view name,
                                                 int64_t start, int64_t end) {
  Entry& entry = entries_.emplace_back();
  entry.kind = kind;
  entry.name = std::string(name);
  entry.start = start;
  entry.duration = end - start;
  entry.parents = parents_;
  return entry;
}

void ExecutionRecorder::Cut(Kind kind, absl::string_view name, double flops,
                            double bytes) {
  const int64_t now = Now();
  if (now == cut_) return;
  Entry& entry = Add(kind, name, cut_, now);
  entry.flops = flops;
  entry.bytes = bytes;
  cut_ = now;
  parents_ = {static_cast<int64_t>(entries_.size()) - 1};
}

void ExecutionRecorder::CutHere() {
  if (node_ != nullptr) {
    Cut(Kind::kCompute, absl::StrCat(node_->op->name, " ", node_->scope), 0, 0);
  } else {
    Cut(Kind::kHost, "host", 0, 0);
  }
}

void ExecutionRecorder::Begin(const Node& node) {
  absl::MutexLock lock(&mutex_);
  if (!is_recording_) return;
  Cut(Kind::kHost, "host", 0, 0);
  node_ = &node;
}

void ExecutionRecorder::End(const Node& node, const Cost& cost) {
  absl::MutexLock lock(&mutex_);
  node_ = nullptr;
  if (!is_recording_) return;
  Cut(Kind::kCompute, absl::StrCat(node.op->name, " ", node.scope), cost.flops,
      cost.bytes_read + cost.bytes_written);
}

void ExecutionRecorder::Start(const Node& node, const Cost& cost) {
  absl::MutexLock lock(&mutex_);
  if (!is_recording_) return;
  Cut(Kind::kHost, "host", 0, 0);
  lanes_[node.attrs.String("group")].begun.push_back(parents_);
}

void ExecutionRecorder::Wait(const Node& node) {
  absl::MutexLock lock(&mutex_);
  if (is_recording_) Cut(Kind::kHost, "host", 0, 0);
}

void ExecutionRecorder::Join(const Node& node) {
  absl::MutexLock lock(&mutex_);
  if (!is_recording_) return;
  // The time since Wait() is the lane's.
  cut_ = Now();
  Lane& lane = lanes_[node.attrs.String("group")];
  for (const int64_t entry : lane.done.front()) parents_.push_back(entry);
  lane.done.pop_front();
}

ExecutionRecorder::Lane* ExecutionRecorder::LaneOf(const CommCall& call) {
  const auto found = lanes_.find(call.group->name);
  return found != lanes_.end() && !found->second.begun.empty() ? &found->second
                                                               : nullptr;
}

void ExecutionRecorder::AddMessage(const CommCall& call, Kind kind, int peer,
                                   int64_t bytes, int64_t start, int64_t end) {
  Entry& entry = Add(
      kind, absl::StrCat(NameOf(call.kind), " ", call.group->name), start, end);
  entry.bytes = static_cast<double>(bytes);
  entry.group = call.group->number;
  entry.peer = call.group->ranks[peer];
}

void ExecutionRecorder::AddSent(const CommCall& call, int rank, int64_t start) {
  for (int r = 0; r < static_cast<int>(call.sent.size()); ++r) {
    if (r == rank || call.sent[r] == 0) continue;
    AddMessage(call, Kind::kSend, r, call.sent[r] * call.element_bytes, start,
               start);
  }
}

std::vector<int64_t> ExecutionRecorder::AddArrived(const CommCall& call,
                                                   int rank, int64_t start,
                                                   int64_t end) {
  const auto first = static_cast<int64_t>(entries_.size());
  if (call.kind == CommCall::Kind::kReceive) {
    AddMessage(call, Kind::kReceive, call.peer, call.bytes, start, end);
  } else if (call.kind == CommCall::Kind::kAllToAll) {
    for (int r = 0; r < static_cast<int>(call.received.size()); ++r) {
      if (r == rank || call.received[r] == 0) continue;
      AddMessage(call, Kind::kReceive, r, call.received[r] * call.element_bytes,
                 start, end);
    }
  } else {
    Entry& entry =
        Add(Kind::kCollective,
            absl::StrCat(NameOf(call.kind), " ", call.group->name), start, end);
    entry.collective = ChakraType(call.kind);
    entry.bytes = static_cast<double>(ChakraBytes(call));
    entry.group = call.group->number;
  }
  std::vector<int64_t> added;
  for (auto e = first; e < static_cast<int64_t>(entries_.size()); ++e) {
    added.push_back(e);
  }
  return added;
}

absl::Status ExecutionRecorder::Before(const CommCall& call,
                                       Communicator& group) {
  absl::MutexLock lock(&mutex_);
  if (!is_recording_ || call.group->ranks.size() == 1) return absl::OkStatus();
  groups_.try_emplace(call.group->number, *call.group);
  if (Lane* const lane = LaneOf(call); lane != nullptr) {
    lane->start = Now();
    return absl::OkStatus();
  }
  CutHere();
  if (call.kind == CommCall::Kind::kSend) {
    AddMessage(call, Kind::kSend, call.peer, call.bytes, cut_, cut_);
  } else {
    AddSent(call, group.rank(), cut_);
  }
  return absl::OkStatus();
}

absl::Status ExecutionRecorder::After(const CommCall& call,
                                      Communicator& group) {
  absl::MutexLock lock(&mutex_);
  if (!is_recording_ || call.group->ranks.size() == 1 || !call.waits()) {
    return absl::OkStatus();
  }
  if (Lane* const lane = LaneOf(call); lane != nullptr) {
    // Beside what the program's thread does, which its entries do not follow.
    std::vector<int64_t> before = std::move(lane->begun.front());
    lane->begun.pop_front();
    for (const int64_t entry : lane->last) {
      if (!absl::c_linear_search(before, entry)) before.push_back(entry);
    }
    std::swap(before, parents_);
    AddSent(call, group.rank(), lane->start);
    std::vector<int64_t> added =
        AddArrived(call, group.rank(), lane->start, Now());
    std::swap(before, parents_);
    if (!added.empty()) lane->last = added;
    lane->done.push_back(std::move(added));
    return absl::OkStatus();
  }
  const int64_t start = cut_;
  cut_ = Now();
  std::vector<int64_t> added = AddArrived(call, group.rank(), start, cut_);
  // Of an exchange in which nothing came, what stood before.
  if (!added.empty()) parents_ = std::move(added);
  return absl::OkStatus();
}

std::string ExecutionRecorder::Serialize() const {
  absl::MutexLock lock(&mutex_);
  std::vector<ChakraProtoMsg::Node> nodes;
  nodes.reserve(groups_.size() + entries_.size());
  for (const auto& [number, group] : groups_) {
    if (number != 0) nodes.push_back(GroupNode(nodes.size(), group));
  }
  const uint64_t first_id = nodes.size();
  for (const Entry& entry : entries_) {
    ChakraProtoMsg::Node& node = nodes.emplace_back();
    node.set_id(nodes.size() - 1);
    node.set_name(entry.name);
    node.set_start_time_micros(static_cast<uint64_t>(entry.start));
    node.set_duration_micros(static_cast<uint64_t>(entry.duration));
    for (const int64_t parent : entry.parents) {
      node.add_data_deps(first_id + parent);
    }
    chakra::AddBool(node, "is_cpu_op", entry.kind == Kind::kHost);
    const auto bytes = static_cast<int64_t>(entry.bytes);
    switch (entry.kind) {
      case Kind::kCompute:
      case Kind::kHost:
        node.set_type(ChakraProtoMsg::COMP_NODE);
        if (entry.flops > 0) {
          chakra::AddInt64(node, "num_ops", static_cast<int64_t>(entry.flops));
        }
        if (bytes > 0) chakra::AddInt64(node, "tensor_size", bytes);
        continue;
      case Kind::kSend:
      case Kind::kReceive: {
        const bool sends = entry.kind == Kind::kSend;
        node.set_type(sends ? ChakraProtoMsg::COMM_SEND_NODE
                            : ChakraProtoMsg::COMM_RECV_NODE);
        chakra::AddInt32(node, "comm_src", sends ? rank_ : entry.peer);
        chakra::AddInt32(node, "comm_dst", sends ? entry.peer : rank_);
        // Messages of a group meet in their order.
        chakra::AddInt32(node, "comm_tag", static_cast<int32_t>(entry.group));
        break;
      }
      case Kind::kCollective:
        node.set_type(ChakraProtoMsg::COMM_COLL_NODE);
        chakra::AddInt64(node, "comm_type", entry.collective);
        break;
    }
    chakra::AddInt64(node, "comm_size", bytes);
    chakra::AddString(node, "pg_name", absl::StrCat(entry.group));
  }
  return chakra::SerializeTrace({}, nodes);
}

absl::Status ExecutionRecorder::Write(absl::string_view prefix) const {
  return WriteFileAtomically(chakra::TracePath(prefix, rank_), Serialize());
}

}  // namespace strata
