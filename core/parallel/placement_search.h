// Local search over the placements of one domain: GPUs of which each may hold
// any of the domain's experts. A domain is all GPUs or, under the hierarchical
// policy, those of a node.
//
// Two moves keep a placement valid:
//
//   swap       two slots of different GPUs exchange their experts
//   overwrite  a slot whose expert has another replica takes a replica of
//              another expert; the load of every replica of both changes
//
// Descend() makes a move only if every GPU it touches ends below the present
// maximum, so the sorted loads fall at every step and it ends. No move makes a
// GPU hold an expert twice, unless the domain's GPUs have more slots than it
// has experts.
//
// Work is counted in moves looked at, not in time, and the random kicks come
// from a fixed seed, so the same input gives the same placement everywhere.

#ifndef CORE_PARALLEL_PLACEMENT_SEARCH_H_
#define CORE_PARALLEL_PLACEMENT_SEARCH_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "core/base/random.h"

namespace strata {

class PlacementSearch {
 public:
  // Of GPUs of as many slots, num_slots in all, at least one for each expert.
  // The loads must outlive the search.
  PlacementSearch(absl::Span<const double> load,  // [num_experts]
                  int num_slots, int num_gpus);

  // Starts from a valid placement.
  void Start(absl::Span<const int32_t> expert);  // [num_slots]

  // Starts from a packing: heavy experts first, each on the least loaded GPUs
  // that have room. Replicas are by MinMaxReplicaCounts or, if that misses
  // `target`, by one of some other rules. No expert is twice on a GPU, unless
  // unavoidable.
  void StartByPacking(double target);

  // Moves, towards the lowest maximum, until no GPU holds an expert twice;
  // nothing if that is unavoidable.
  void RemoveDuplicates();

  // Lowers the maximum until it is at most `target` or `budget` moves have been
  // looked at, which are taken off it: descends and, where it is stuck, kicks
  // the best placement so far and descends again. Ends in the best placement.
  // With `spare_moves` it minds how many slots a move changes.
  void Improve(double target, bool spare_moves, int64_t& budget);

  // Undoes what differs from `present`, a placement of the same sizes with -1
  // for experts that are none of the domain's, as far as the maximum stays at
  // most `target`. Slots of a GPU are put in the order in which the most of
  // them agree with `present`.
  void ReturnTo(absl::Span<const int32_t> present, double target);

  // Of the present placement.
  const std::vector<int32_t>& expert() const { return expert_; }
  double MaxLoad() const { return gpu_load_[HeaviestGpu()]; }

 private:
  // What a move would lead to.
  struct Move {
    double max_load;  // Of the GPUs it touches; infinite if there is no move.
    int slot;
    int other_slot;  // To swap with; -1 for an overwrite.
    int expert;      // To overwrite with.
  };

  int GpuOf(int slot) const { return slot / slots_per_gpu_; }
  int& Held(int expert, int gpu) { return held_[expert * num_gpus_ + gpu]; }
  int Held(int expert, int gpu) const {
    return held_[expert * num_gpus_ + gpu];
  }
  double ReplicaLoad(int expert, int count) const {
    return load_[expert] / count;
  }
  // Counts that make replicas of heavy experts as heavy as `limit` allows, and
  // the heaviest of the others as light as possible; none if slots run out.
  std::vector<int32_t> CountsUpTo(double limit) const;
  void Pack(absl::Span<const int32_t> count);  // [num_experts]
  // Sets what follows from the expert's count.
  void SetReplicaLoad(int expert);
  // Whether `gpu` may take another replica of `expert`.
  bool MayHold(int expert, int gpu) const {
    return must_duplicate_ || Held(expert, gpu) == 0;
  }
  int HeaviestGpu() const;
  double MeanLoad() const;
  // The slots of a GPU, lightest replica first.
  absl::Span<const int32_t> SortedSlots(int gpu);

  // The swap of GPUs `gpu` and `other` that moves the load nearest to `wanted`
  // from the first to the second, within `nearest`, which it updates. Leaves
  // `move` alone if there is none.
  void NearestSwap(int gpu, int other, double wanted, double& nearest,
                   Move& move);
  // The swap of a slot of `gpu` that ends the furthest below its load.
  Move BestSwap(int gpu, int64_t& budget);
  // The swap that brings `gpu` within `window` of the mean and its partner the
  // nearest to it, as does a GPU of the opposite deviation: two mended by one.
  Move MendingSwap(int gpu, double window, int64_t& budget);
  // The best of BestSwap's kind for overwriting a slot of `gpu`, or another
  // with an expert of it.
  Move BestOverwrite(int gpu, int64_t& budget) const;
  // The highest load among the GPUs that the move touches, after it.
  double MaxAfterSwap(int slot, int other_slot) const;
  double MaxAfterOverwrite(int slot, int expert) const;
  void Apply(const Move& move);
  void Swap(int slot, int other_slot);
  void Overwrite(int slot, int expert);

  // The move that Descend makes next, to lower the heaviest GPU, `gpu`.
  Move NextMove(int gpu, double target, bool spare_moves, int64_t& budget);
  // Returns whether it reached the target.
  bool Descend(double target, bool spare_moves, int64_t& budget);
  void Kick();
  void UndoJournal();
  void AlignWith(absl::Span<const int32_t> present);

  const absl::Span<const double> load_;  // [num_experts]
  const int num_experts_;
  const int num_slots_;
  const int num_gpus_;
  const int slots_per_gpu_;
  const bool must_duplicate_;

  std::vector<int32_t> expert_;       // [num_slots]
  std::vector<int32_t> count_;        // [num_experts] replicas
  std::vector<double> replica_load_;  // [num_experts]
  std::vector<double> next_load_;     // [num_experts] with one replica more
  std::vector<double> gpu_load_;      // [num_gpus]
  std::vector<int> held_;             // [num_experts, num_gpus] replicas
  std::vector<int32_t> sorted_slot_;  // [num_gpus, slots_per_gpu]
  std::vector<bool> is_sorted_;       // [num_gpus]
  std::vector<Move> journal_;         // What undoes the moves, oldest first.
  Random random_;
};

}  // namespace strata

#endif  // CORE_PARALLEL_PLACEMENT_SEARCH_H_
