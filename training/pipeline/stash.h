// What the programs of a stage keep for later ones: copies of values, by
// micro-batch, from its forward to its weight gradients.
//
// Memory that a stash took is kept for the next one, whichever of the rank's
// stages that is of: stages are alike, and hold most at different times.

#ifndef TRAINING_PIPELINE_STASH_H_
#define TRAINING_PIPELINE_STASH_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/graph/graph.h"
#include "core/runtime/backend.h"

namespace strata {

struct Kept {
  std::unique_ptr<Memory> memory;  // Of the backend, if it is a large value,
  std::vector<char> host;          // and else here.
  int64_t num_bytes = 0;
  int64_t max_bytes = 0;  // Of the memory.
};

// Values of one micro-batch, by name.
struct Stash {
  int micro_batch = -1;  // -1: free.
  std::map<std::string, Kept> values;
};

// Memory of the stashes of a rank's stages, and how many of those there are.
class StashMemory {
 public:
  explicit StashMemory(Backend& backend) : backend_(backend) {}

  // The most stashes that lived at once.
  int most_held() const { return most_held_; }

 private:
  friend class Stashes;

  absl::StatusOr<std::unique_ptr<Memory>> Take(int64_t num_bytes);
  void GiveBack(int64_t num_bytes, std::unique_ptr<Memory> memory);

  Backend& backend_;
  std::map<int64_t, std::vector<std::unique_ptr<Memory>>> free_;  // By size.
  int held_ = 0;
  int most_held_ = 0;
};

// The stashes of one stage.
class Stashes {
 public:
  // `memory` must outlive the stashes.
  explicit Stashes(StashMemory& memory) : memory_(memory) {}

  // That of the micro-batch; a free one becomes it.
  Stash& Of(int micro_batch);
  // Room in a stash for `num_bytes` of a value of that type.
  absl::StatusOr<Kept*> RoomFor(const std::string& name, const ValueType& type,
                                int64_t num_bytes, Stash& stash);
  void Free(Stash& stash);
  void FreeAll();

 private:
  StashMemory& memory_;
  std::vector<std::unique_ptr<Stash>> stashes_;
};

}  // namespace strata

#endif  // TRAINING_PIPELINE_STASH_H_
