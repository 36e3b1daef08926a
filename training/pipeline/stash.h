// What the programs of a stage keep for later ones, by micro-batch, from its
// forward to its weight gradients.
//
//   frame         large values, each at its place of the stage's layout: one
//                 program writes them there, the next reads them there
//   host copies   of small ones, such as losses and counts
//
// A frame is used again for the next micro-batch, of whichever of the rank's
// stages: stages are alike, and hold most at different times.

#ifndef TRAINING_PIPELINE_STASH_H_
#define TRAINING_PIPELINE_STASH_H_

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/graph/graph.h"
#include "core/runtime/backend.h"
#include "core/runtime/program.h"

namespace strata {

// Where a stage's large values lie in a frame.
class FrameLayout {
 public:
  // A value that is there already stays where it is.
  void Add(const std::string& name, const ValueType& type);
  bool Has(const std::string& name) const { return offset_.count(name) > 0; }
  int64_t Offset(const std::string& name) const { return offset_.at(name); }
  // Adds `frame` and offset of each name that `graph` has, behind `prefix`, to
  // what a program is compiled with.
  void PlaceIn(const Graph& graph, int frame, absl::string_view prefix,
               Program::Options& options) const;
  int64_t num_bytes() const { return num_bytes_; }

 private:
  std::map<std::string, int64_t> offset_;
  int64_t num_bytes_ = 0;
};

// Values of one micro-batch.
struct Stash {
  int micro_batch = -1;  // -1: free.
  std::unique_ptr<Memory> frame;
  std::map<std::string, std::vector<char>> small;  // By name.
  std::map<std::string, int64_t> num_bytes;        // Of gradients to come.
};

// The frames of a rank's stages, and how many stashes there are.
class StashMemory {
 public:
  explicit StashMemory(Backend& backend) : backend_(backend) {}

  // Of a stage, before the first frame is taken: all are as large as the
  // largest.
  void Reserve(int64_t num_bytes) {
    frame_bytes_ = std::max(frame_bytes_, num_bytes);
  }
  // Returns the errors of Backend::Allocate().
  absl::StatusOr<std::unique_ptr<Memory>> Take();
  void GiveBack(std::unique_ptr<Memory> frame);

  // The most stashes that lived at once.
  int most_held() const { return most_held_; }

 private:
  friend class Stashes;

  Backend& backend_;
  int64_t frame_bytes_ = 0;
  std::vector<std::unique_ptr<Memory>> free_;
  int held_ = 0;
  int most_held_ = 0;
};

// The stashes of one stage.
class Stashes {
 public:
  // `memory` must outlive the stashes.
  explicit Stashes(StashMemory& memory) : memory_(memory) {}

  // That of the micro-batch; a free one becomes it.
  //
  // Returns the errors of StashMemory::Take().
  absl::StatusOr<Stash*> Of(int micro_batch);
  void Free(Stash& stash);
  void FreeAll();

 private:
  StashMemory& memory_;
  std::vector<std::unique_ptr<Stash>> stashes_;
};

}  // namespace strata

#endif  // TRAINING_PIPELINE_STASH_H_
