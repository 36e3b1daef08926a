// How a model's weights lie in memory, and which can stay as they are on disk.

#ifndef CORE_CHECKPOINT_WEIGHT_STORAGE_H_
#define CORE_CHECKPOINT_WEIGHT_STORAGE_H_

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/checkpoint/stored_tensor.h"
#include "core/checkpoint/weight_files.h"
#include "core/checkpoint/weight_map.h"
#include "core/model/config.pb.h"
#include "core/runtime/state_store.h"
#include "core/tensor/bfloat16.h"

namespace strata {

enum class WeightStorage {
  kF32,
  // Matrices that lie on disk in BF16 stay so, read in place where they can be;
  // the numbers are the same as in F32, and half the bytes. Quantised ones are
  // packed for kernels (core/quant/packed_rows.h).
  kAsStored,
  // The same for kernels that multiply rows of one format, of 4 or 8 bits:
  // where experts of a matrix have several, or rows 2 bits, the format that has
  // all their numbers.
  kAlike,
  kBF16,  // All matrices that can be, rounded where they are wider on disk.
};

// The parameters that are kept in BF16: those that every program of generation
// and evaluation takes so (core/passes/narrow_weights.h) and, as stored, whose
// parts are all BF16 in `tensors`.
absl::StatusOr<std::set<std::string>> NarrowParameters(
    const ModelConfig& config, const std::vector<WeightParts>& map,
    const StoredTensors& tensors, WeightStorage storage);

// Puts those of `names` into `state` whose bytes lie in `files` one part after
// another, as they are there; `state` keeps `files` open. Checks no number.
void AdoptInPlace(const std::vector<WeightParts>& map,
                  const std::set<std::string>& names,
                  const std::shared_ptr<const WeightFiles>& files,
                  StateStore& state);

// Writes the numbers of `tensor`, a BF16 one, to `out` unless they lie there.
//
// Returns INVALID_ARGUMENT that says which element is a NaN or an infinity.
absl::Status CopyNarrow(absl::string_view name, const StoredTensor& tensor,
                        BFloat16* out);

}  // namespace strata

#endif  // CORE_CHECKPOINT_WEIGHT_STORAGE_H_
