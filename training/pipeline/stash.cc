#include "training/pipeline/stash.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "core/base/status_macros.h"
#include "core/graph/graph.h"
#include "core/runtime/backend.h"
#include "training/pipeline/stage_messages.h"

namespace strata {

absl::StatusOr<std::unique_ptr<Memory>> StashMemory::Take(int64_t num_bytes) {
  std::vector<std::unique_ptr<Memory>>& free = free_[num_bytes];
  if (free.empty()) return backend_.Allocate(num_bytes);
  std::unique_ptr<Memory> memory = std::move(free.back());
  free.pop_back();
  return memory;
}

void StashMemory::GiveBack(int64_t num_bytes, std::unique_ptr<Memory> memory) {
  free_[num_bytes].push_back(std::move(memory));
}

Stash& Stashes::Of(int micro_batch) {
  Stash* free = nullptr;
  for (const auto& stash : stashes_) {
    if (stash->micro_batch == micro_batch) return *stash;
    if (stash->micro_batch < 0) free = stash.get();
  }
  if (free == nullptr) {
    stashes_.push_back(std::make_unique<Stash>());
    free = stashes_.back().get();
  }
  free->micro_batch = micro_batch;
  memory_.most_held_ = std::max(memory_.most_held_, ++memory_.held_);
  return *free;
}

absl::StatusOr<Kept*> Stashes::RoomFor(const std::string& name,
                                       const ValueType& type, int64_t num_bytes,
                                       Stash& stash) {
  Kept& kept = stash.values[name];
  kept.num_bytes = num_bytes;
  if (!IsLarge(type)) {
    kept.host.resize(num_bytes);
  } else if (kept.memory == nullptr) {
    kept.max_bytes = type.max_bytes();
    ASSIGN_OR_RETURN(kept.memory, memory_.Take(kept.max_bytes));
  }
  return &kept;
}

void Stashes::Free(Stash& stash) {
  stash.micro_batch = -1;
  --memory_.held_;
  for (auto& [name, kept] : stash.values) {
    kept.num_bytes = 0;
    if (kept.memory == nullptr) continue;
    memory_.GiveBack(kept.max_bytes, std::move(kept.memory));
  }
}

void Stashes::FreeAll() {
  for (const auto& stash : stashes_) {
    if (stash->micro_batch >= 0) Free(*stash);
  }
}

}  // namespace strata
