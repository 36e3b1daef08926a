// A model's weights from a folder into a state store: ours, or a public
// checkpoint as it was downloaded.
//
// Weights may be F32, F64, F16, BF16, or F8 with a scale a block; they are
// widened (or, F64, rounded) to what the store holds, or stay BF16
// (core/checkpoint/weight_storage.h).

#ifndef CORE_CHECKPOINT_LOAD_MODEL_H_
#define CORE_CHECKPOINT_LOAD_MODEL_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/checkpoint/stored_tensor.h"
#include "core/checkpoint/weight_map.h"
#include "core/checkpoint/weight_storage.h"
#include "core/model/config.pb.h"
#include "core/runtime/state_store.h"

namespace strata {

// A tensor of a checkpoint that the model has no use for.
struct UnusedTensor {
  std::string name;
  std::string reason;
};

// Where each of our tensors lies: in public names, or (`own`) under its own.
struct WeightLayout {
  std::vector<WeightParts> map;
  bool own = false;
};

// Experts that one of our own files has in a tensor each, "...experts.3.
// down_proj.weight", as it does where their formats differ: these become the
// parts of their entry.
void SplitExperts(const StoredTensors& tensors, WeightLayout& layout);

// Fills every tensor of `layout` from `tensors`; `where` is for messages.
//
// Returns INVALID_ARGUMENT with the names if some are missing, have another
// shape, no numbers that we read, scales that do not fit, or a number that is
// not finite.
absl::Status FillState(absl::string_view where, const ModelConfig& config,
                       const WeightLayout& layout, const StoredTensors& tensors,
                       StateStore& state);

// What FillState would not look at, with the reasons, by name.
std::vector<UnusedTensor> FindUnused(const ModelConfig& config,
                                     const WeightLayout& layout,
                                     const StoredTensors& tensors);

// Lines for people: a reason, how many tensors it is of, and their names (of
// many, the first).
std::vector<std::string> DescribeUnused(
    const std::vector<UnusedTensor>& unused);

// The scales of fp8 weight `name`; none if it is no fp8 weight. `numbers` is
// their memory.
//
// Returns INVALID_ARGUMENT if they are missing or of another shape. `parts` of
// that shape have scales of their own, one after another.
struct PartScales {
  std::vector<float> numbers;
  int64_t part_size = 0;  // 0: there are none.
  int64_t rows = 0;
  int64_t columns = 0;
};
absl::StatusOr<PartScales> ReadScales(const ModelConfig& config,
                                      const std::string& name,
                                      const Shape& part_shape, int64_t parts,
                                      const StoredTensors& tensors);

// Whether `dir`'s config.json is a public one (else it is ours, or no config).
bool IsHfFolder(const std::string& dir);

// Declares the model's tensors in `state` and fills them from the folder, whose
// config (LoadModelConfig) is `config`. Of a public checkpoint, what is not
// used goes to `unused`, if that is not null; ours must hold nothing else.
// `storage` is how `state` keeps what it does not hold yet; it may then have
// the folder's files open, which must not be written to.
//
// Returns the errors of WeightFiles::Open and of FillState.
absl::Status LoadModelWeights(const std::string& dir, const ModelConfig& config,
                              StateStore& state,
                              std::vector<UnusedTensor>* unused = nullptr,
                              WeightStorage storage = WeightStorage::kF32);

}  // namespace strata

#endif  // CORE_CHECKPOINT_LOAD_MODEL_H_
