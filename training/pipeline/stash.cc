#include "training/pipeline/stash.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/base/status_macros.h"
#include "core/graph/graph.h"
#include "core/runtime/backend.h"
#include "core/runtime/program.h"

namespace strata {
namespace {

constexpr int64_t kAlignment = 256;  // Of what a device reads at once, or more.

}  // namespace

void FrameLayout::Add(const std::string& name, const ValueType& type) {
  if (!offset_.emplace(name, num_bytes_).second) return;
  num_bytes_ += (type.max_bytes() + kAlignment - 1) / kAlignment * kAlignment;
}

void FrameLayout::PlaceIn(const Graph& graph, int frame,
                          absl::string_view prefix,
                          Program::Options& options) const {
  for (const auto& [name, offset] : offset_) {
    const std::string there = absl::StrCat(prefix, name);
    if (graph.outputs().count(there) == 0 && graph.FindSource(there) == kNone) {
      continue;
    }
    options.in_frames[there] = {frame, offset};
  }
}

absl::StatusOr<std::unique_ptr<Memory>> StashMemory::Take() {
  if (free_.empty()) return backend_.Allocate(frame_bytes_);
  std::unique_ptr<Memory> frame = std::move(free_.back());
  free_.pop_back();
  return frame;
}

void StashMemory::GiveBack(std::unique_ptr<Memory> frame) {
  free_.push_back(std::move(frame));
}

absl::StatusOr<Stash*> Stashes::Of(int micro_batch) {
  Stash* free = nullptr;
  for (const auto& stash : stashes_) {
    if (stash->micro_batch == micro_batch) return stash.get();
    if (stash->micro_batch < 0) free = stash.get();
  }
  if (free == nullptr) {
    stashes_.push_back(std::make_unique<Stash>());
    free = stashes_.back().get();
  }
  ASSIGN_OR_RETURN(free->frame, memory_.Take());
  free->micro_batch = micro_batch;
  memory_.most_held_ = std::max(memory_.most_held_, ++memory_.held_);
  return free;
}

void Stashes::Free(Stash& stash) {
  stash.micro_batch = -1;
  --memory_.held_;
  memory_.GiveBack(std::move(stash.frame));
}

void Stashes::FreeAll() {
  for (const auto& stash : stashes_) {
    if (stash->micro_batch >= 0) Free(*stash);
  }
}

}  // namespace strata
