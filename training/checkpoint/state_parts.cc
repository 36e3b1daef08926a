#include "training/checkpoint/state_parts.h"

#include <cstdint>
#include <cstring>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "core/base/check.h"
#include "core/base/status_macros.h"
#include "core/checkpoint/shards/expert_parts.h"
#include "core/checkpoint/stored_tensor.h"
#include "core/checkpoint/weight_files.h"
#include "core/graph/graph.h"
#include "core/parallel/communicator.h"
#include "core/passes/partition/partition_experts.h"
#include "core/runtime/state_store.h"
#include "core/tensor/dtype.h"
#include "core/tensor/shape.h"
#include "core/tensor/tensor.h"
#include "training/rank_state.h"

namespace strata {
namespace {

StatePart WholeOf(const Graph& whole, const std::string& name) {
  const ValueId id = whole.FindSource(name);
  CHECK(id != kNone) << name;
  const ValueType& type = whole.value(id).type;
  StatePart part = {name, name, -1, type.dtype, {}};
  for (const Dim& dim : type.dims) part.shape.push_back(dim.bound);
  return part;
}

std::vector<StatePart> ExpertsOf(const StatePart& whole) {
  std::vector<StatePart> parts;
  for (int64_t e = 0; e < whole.shape[0]; ++e) {
    StatePart part = whole;
    part.name = ExpertPart(whole.name, e);
    part.expert = e;
    part.shape.erase(part.shape.begin());
    parts.push_back(std::move(part));
  }
  return parts;
}

std::string TypeOf(DType dtype, const Shape& shape) {
  return absl::StrCat(Name(dtype), ToString(shape));
}

// The tensor of the part in the files.
absl::StatusOr<TensorView> Stored(const WeightFiles& files,
                                  const StatePart& part) {
  const auto found = files.tensors().find(part.name);
  if (found == files.tensors().end()) {
    return absl::InvalidArgumentError(
        absl::StrCat(files.path(), ": tensor \"", part.name,
                     "\" is missing; want ", TypeOf(part.dtype, part.shape)));
  }
  const TensorView& view = found->second.view;
  if (view.dtype != part.dtype || view.shape != part.shape) {
    return absl::InvalidArgumentError(
        absl::StrCat(files.path(), ": tensor \"", part.name, "\" is ",
                     TypeOf(view.dtype, view.shape), "; want ",
                     TypeOf(part.dtype, part.shape)));
  }
  return view;
}

void CopyTo(const TensorView& to, const TensorView& from) {
  CHECK_EQ(to.num_bytes(), from.num_bytes());
  if (to.num_bytes() > 0) std::memcpy(to.data, from.data, to.num_bytes());
}

}  // namespace

std::vector<StatePart> PartsOf(const Graph& whole,
                               const std::vector<std::string>& names) {
  std::vector<StatePart> parts;
  for (const std::string& name : names) {
    StatePart part = WholeOf(whole, name);
    if (!IsOfExperts(name, part.shape)) {
      parts.push_back(std::move(part));
      continue;
    }
    for (StatePart& expert : ExpertsOf(part)) {
      parts.push_back(std::move(expert));
    }
  }
  return parts;
}

std::optional<TensorView> FindPart(const StateStore& local,
                                   absl::Span<const Shard> shards,
                                   const StatePart& part) {
  if (!local.Has(part.state)) return std::nullopt;
  const TensorView& view = local.Peek(part.state);
  if (part.expert < 0) {
    CHECK(FindShard(shards, part.state) == nullptr) << part.state;
    return view;
  }
  const int64_t row = LocalRow(shards, part.state, part.expert);
  if (row < 0) return std::nullopt;
  return RowOf(view, row);
}

absl::StatusOr<std::vector<int>> WritersOf(const StateStore& local,
                                           absl::Span<const Shard> shards,
                                           absl::Span<const StatePart> parts,
                                           Communicator& ranks) {
  std::vector<uint8_t> mine;
  for (const StatePart& part : parts) {
    mine.push_back(FindPart(local, shards, part).has_value() ? 1 : 0);
  }
  std::vector<uint8_t> held(ranks.size() * parts.size());  // [ranks, parts]
  const std::vector<int64_t> counts(ranks.size(),
                                    static_cast<int64_t>(parts.size()));
  RETURN_IF_ERROR(ranks.AllGather(PayloadOf(absl::MakeSpan(mine)), counts,
                                  PayloadOf(absl::MakeSpan(held))));
  std::vector<int64_t> bytes(ranks.size(), 0);
  std::vector<int> writer;
  for (size_t i = 0; i < parts.size(); ++i) {
    int least = -1;
    for (int r = 0; r < ranks.size(); ++r) {
      if (held[r * parts.size() + i] == 0) continue;
      if (least < 0 || bytes[r] < bytes[least]) least = r;
    }
    if (least < 0) {
      return absl::InternalError(absl::StrCat("no rank has ", parts[i].name));
    }
    bytes[least] += parts[i].num_bytes();
    writer.push_back(least);
  }
  return writer;
}

absl::Status ReadParts(const WeightFiles& files, const Graph& whole,
                       const std::vector<std::string>& names,
                       absl::Span<const Shard> shards, StateStore& local) {
  // Headers alone, of what other ranks hold too.
  std::vector<std::pair<StatePart, TensorView>> stored;
  std::set<std::string> known;
  for (const std::string& name : names) {
    const StatePart all = WholeOf(whole, name);
    const bool by_expert = IsOfExperts(name, all.shape) &&
                           files.tensors().count(name) == 0 &&
                           files.tensors().count(ExpertPart(name, 0)) > 0;
    for (const StatePart& part :
         by_expert ? ExpertsOf(all) : std::vector<StatePart>{all}) {
      ASSIGN_OR_RETURN(const TensorView view, Stored(files, part));
      known.insert(part.name);
      stored.emplace_back(part, view);
    }
  }
  for (const auto& [name, tensor] : files.tensors()) {
    if (known.count(name) > 0) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        files.path(), ": tensor \"", name, "\" (",
        TypeOf(tensor.view.dtype, tensor.view.shape),
        ") belongs to another model; this one has no tensor of that name"));
  }
  for (const auto& [part, view] : stored) {
    if (!local.Has(part.state)) continue;
    const TensorView to = local.Get(part.state);
    if (part.expert >= 0 || FindShard(shards, part.state) == nullptr) {
      if (const auto row = FindPart(local, shards, part)) CopyTo(*row, view);
      continue;
    }
    for (int64_t e = 0; e < view.dim(0); ++e) {
      const int64_t row = LocalRow(shards, part.state, e);
      if (row >= 0) CopyTo(RowOf(to, row), RowOf(view, e));
    }
  }
  return absl::OkStatus();
}

}  // namespace strata
