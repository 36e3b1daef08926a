// Saves the state of several ranks while they go on training.
//
//   every rank   Begin: copies the parts that are its to write
//     thread     writes them: model-00002-of-00004.safetensors and
//                optimizer-00002-of-00004.safetensors, with their sums
//   first rank   once all have written (Poll, between steps)
//     thread     the indexes, config and manifest; everything to the disk; then
//                one rename, of the folder: until there it does not count
//
//   <runs>/.step-000100.staging-4711-0/   meanwhile
//   <runs>/step-000100/                   then
//
// The copy is of what the rank writes, so of the state over the ranks; its
// memory is kept for the next one. No rank holds, or sees, all of the model.
//
// A save that fails, on whatever rank, leaves nothing; the ranks hear of it by
// Poll and may go on. A kill at any moment leaves the checkpoints before.

#ifndef TRAINING_CHECKPOINT_CHECKPOINT_SAVER_H_
#define TRAINING_CHECKPOINT_CHECKPOINT_SAVER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "core/graph/graph.h"
#include "core/parallel/communicator.h"
#include "core/passes/partition/partition_experts.h"
#include "core/runtime/state_store.h"
#include "nlohmann/json.hpp"

namespace strata {

inline constexpr char kOptimizerFile[] = "optimizer.safetensors";
inline constexpr char kManifestFile[] = "manifest.json";

// What is saved, but for the tensors' elements. The same on all ranks.
struct CheckpointContents {
  std::string path;  // The folder to be.
  std::string of;    // "step 100 of run 3fa2b1": what each file says it is of.
  const Graph* whole = nullptr;  // The states of one rank that holds all,
  std::vector<std::string> model, optimizer;  // and which go where.
  // Further files, by name, and the manifest, to which the hash of the weights
  // is added; the first rank's count.
  std::vector<std::pair<std::string, std::string>> texts;
  nlohmann::json manifest;
  // Called by the first rank's thread once the checkpoint counts.
  std::function<void()> saved;
};

// How a save went.
struct SaveReport {
  std::string path;
  absl::Status status;         // The same on all ranks.
  double seconds = 0;          // From Begin until it counted,
  double seconds_stopped = 0;  // of which this rank stood still.
  int64_t snapshot_bytes = 0;  // Of this rank.
};

class CheckpointSaver {
 public:
  // `ranks`, which must outlive it, are those that make each call together.
  explicit CheckpointSaver(Communicator& ranks);
  // Waits for the rank's own thread.
  ~CheckpointSaver();

  // Begins a save of `state`, which may change as soon as this returns. None
  // must be under way.
  //
  // Returns the communicator's errors. All others are those of the save, and
  // Poll's to tell.
  absl::Status Begin(CheckpointContents contents, const StateStore& state,
                     absl::Span<const Shard> shards);

  bool is_saving() const { return job_ != nullptr; }

  // How the save went if it has ended, else nothing; `wait` waits for it.
  //
  // Returns the communicator's errors, and DEADLINE_EXCEEDED if, waited for, no
  // rank has written anything for the patience.
  absl::StatusOr<std::optional<SaveReport>> Poll(bool wait);

  void set_patience(absl::Duration patience) { patience_ = patience; }
  // Called by each rank's thread before it writes; an error is the save's.
  void set_before_write_for_testing(std::function<absl::Status()> before) {
    before_write_ = std::move(before);
  }

 private:
  struct Job;

  absl::Status Stage(Job& job);
  absl::Status Copy(const StateStore& state, absl::Span<const Shard> shards,
                    Job& job);
  absl::Status Collect(Job& job);
  absl::Status GiveUp();
  absl::StatusOr<std::optional<SaveReport>> End();

  Communicator& ranks_;
  std::unique_ptr<char[]> snapshot_;
  int64_t snapshot_bytes_ = 0;  // Of its room.
  std::shared_ptr<Job> job_;    // Null: none is under way.
  absl::Duration patience_ = absl::Minutes(10);
  std::function<absl::Status()> before_write_;
};

}  // namespace strata

#endif  // TRAINING_CHECKPOINT_CHECKPOINT_SAVER_H_
