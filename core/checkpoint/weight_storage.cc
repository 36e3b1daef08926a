#include "core/checkpoint/weight_storage.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/base/status_macros.h"
#include "core/checkpoint/stored_tensor.h"
#include "core/checkpoint/weight_files.h"
#include "core/checkpoint/weight_map.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/model/config.pb.h"
#include "core/model/decoder.h"
#include "core/passes/narrow_weights.h"
#include "core/runtime/backend.h"
#include "core/runtime/state_store.h"
#include "core/tensor/bfloat16.h"
#include "core/tensor/dtype.h"
#include "core/tensor/shape.h"
#include "core/tensor/tensor.h"

namespace strata {
namespace {

// A part of a mapped file, which stays open as long as somebody has one.
class MappedMemory : public Memory {
 public:
  MappedMemory(std::shared_ptr<const WeightFiles> files, char* data)
      : files_(std::move(files)), data_(data) {}
  char* data() const override { return data_; }

 private:
  std::shared_ptr<const WeightFiles> files_;
  char* data_;
};

bool IsPlainBf16(const StoredTensors& tensors, const std::string& name,
                 const Shape& shape) {
  const auto it = tensors.find(name);
  return it != tensors.end() && it->second.view.dtype == DType::kBF16 &&
         it->second.view.shape == shape &&
         it->second.packing == StoredTensor::Packing::kNone &&
         it->second.paired_heads == 0;
}

// Whether the parts are there in BF16, and no byte is between them.
bool LieInOrder(const WeightParts& entry, const StoredTensors& tensors) {
  const char* next = nullptr;
  for (const std::string& part : entry.parts) {
    if (!IsPlainBf16(tensors, part, entry.part_shape)) return false;
    const TensorView& view = tensors.at(part).view;
    const auto* const data = static_cast<const char*>(view.data);
    if (next != nullptr && data != next) return false;
    next = data + view.num_bytes();
  }
  return true;
}

}  // namespace

absl::StatusOr<std::set<std::string>> NarrowParameters(
    const ModelConfig& config, const std::vector<WeightParts>& map,
    const StoredTensors& tensors, WeightStorage storage) {
  using Mode = DecoderOptions::Mode;
  std::set<std::string> names;
  if (storage == WeightStorage::kF32) return names;
  std::vector<Mode> modes = {Mode::kEvaluate, Mode::kLogits, Mode::kGenerate};
  if (config.mtp().num_layers() > 0) modes.push_back(Mode::kDraft);
  std::set<std::string> refused;
  for (const Mode mode : modes) {
    GraphBuilder builder;
    DecoderOptions options;
    options.mode = mode;
    options.max_tokens = 1;
    BuildDecoder(builder, config, options);
    ASSIGN_OR_RETURN(const Graph graph, builder.Finish());
    const std::set<std::string> narrowable = NarrowableWeights(graph);
    names.insert(narrowable.begin(), narrowable.end());
    for (const Value& value : graph.values()) {
      if (value.role == Role::kParameter && narrowable.count(value.name) == 0) {
        refused.insert(value.name);
      }
    }
  }
  for (const std::string& name : refused) names.erase(name);
  if (storage == WeightStorage::kBF16) return names;
  std::set<std::string> stored;
  for (const WeightParts& entry : map) {
    if (names.count(entry.name) > 0 &&
        std::all_of(entry.parts.begin(), entry.parts.end(),
                    [&](const std::string& part) {
                      return IsPlainBf16(tensors, part, entry.part_shape);
                    })) {
      stored.insert(entry.name);
    }
  }
  return stored;
}

void AdoptInPlace(const std::vector<WeightParts>& map,
                  const std::set<std::string>& names,
                  const std::shared_ptr<const WeightFiles>& files,
                  StateStore& state) {
  for (const WeightParts& entry : map) {
    if (names.count(entry.name) == 0 || state.Has(entry.name) ||
        !LieInOrder(entry, files->tensors())) {
      continue;
    }
    TensorView view;
    view.dtype = DType::kBF16;
    view.shape = entry.shape;
    view.data = files->tensors().at(entry.parts[0]).view.data;
    state.Adopt(
        entry.name, view, Role::kParameter,
        std::make_unique<MappedMemory>(files, static_cast<char*>(view.data)));
  }
}

absl::Status CopyNarrow(absl::string_view name, const StoredTensor& tensor,
                        BFloat16* out) {
  // Looked at in pieces, which stay in the cache for the copy.
  constexpr int64_t kPiece = 4096;
  const auto* const from = static_cast<const BFloat16*>(tensor.view.data);
  const int64_t all = tensor.view.num_elements();
  for (int64_t begin = 0; begin < all; begin += kPiece) {
    const int64_t n = std::min(kPiece, all - begin);
    bool finite = true;
    for (int64_t i = 0; i < n; ++i) finite &= IsFinite(from[begin + i]);
    // The common reader has the words for it.
    if (!finite) {
      std::vector<float> wide(all);
      return ReadNumbers<float>(name, tensor, /*scale=*/nullptr, wide.data());
    }
    if (out != from) {
      std::memcpy(out + begin, from + begin, n * sizeof(BFloat16));
    }
  }
  return absl::OkStatus();
}

}  // namespace strata
