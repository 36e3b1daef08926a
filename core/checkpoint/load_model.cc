#include "core/checkpoint/load_model.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "core/base/check.h"
#include "core/base/files.h"
#include "core/base/status_macros.h"
#include "core/checkpoint/hf_config.h"
#include "core/checkpoint/hf_fields.h"
#include "core/checkpoint/model_files.h"
#include "core/checkpoint/shards/expert_parts.h"
#include "core/checkpoint/stored_tensor.h"
#include "core/checkpoint/weight_files.h"
#include "core/checkpoint/weight_map.h"
#include "core/checkpoint/weight_storage.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/model/config.pb.h"
#include "core/model/decoder.h"
#include "core/passes/narrow_weights.h"
#include "core/passes/quantize_weights.h"
#include "core/quant/packed_parameters.h"
#include "core/runtime/state_store.h"
#include "core/tensor/bfloat16.h"
#include "core/tensor/dtype.h"
#include "core/tensor/shape.h"
#include "core/tensor/tensor.h"

namespace strata {
namespace {

constexpr absl::string_view kScaleSuffix = "_scale_inv";
constexpr char kOwnArchitecture[] = "StrataForCausalLM";

// Names that a message lists; the rest are counted.
constexpr size_t kMaxListed = 8;

bool IsFp8(const StoredTensor& tensor) {
  return tensor.view.dtype == DType::kF8E4M3 ||
         tensor.view.dtype == DType::kF8E5M2;
}

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

std::string ListOf(const std::vector<std::string>& names) {
  const size_t shown = std::min(names.size(), kMaxListed);
  std::string text = absl::StrJoin(names.begin(), names.begin() + shown, ", ");
  if (names.size() > shown) {
    absl::StrAppend(&text, " and ", names.size() - shown, " more");
  }
  return text;
}

// All of the layout's tensors are there.
absl::Status CheckComplete(absl::string_view where, const WeightLayout& layout,
                           const StoredTensors& tensors) {
  std::vector<std::string> missing;
  for (const WeightParts& entry : layout.map) {
    for (const std::string& part : entry.parts) {
      if (tensors.count(part) == 0) missing.push_back(Shown(part));
    }
  }
  if (missing.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(where, ": ", missing.size(),
                   missing.size() == 1 ? " tensor of the model is missing: "
                                       : " tensors of the model are missing: ",
                   ListOf(missing)));
}

// Writes the numbers of one tensor, which is `parts` parts of `part_shape`, to
// `out`.
template <typename T>
absl::Status Fill(const ModelConfig& config, const std::string& name,
                  const StoredTensor& tensor, const Shape& part_shape,
                  int64_t parts, const StoredTensors& tensors, T* out) {
  ASSIGN_OR_RETURN(const PartScales scales,
                   ReadScales(config, name, part_shape, parts, tensors));
  if (scales.part_size == 0) {
    return ReadNumbers<T>(name, tensor, /*scale=*/nullptr, out);
  }
  const int64_t size = NumElements(part_shape);
  for (int64_t i = 0; i < parts; ++i) {
    StoredTensor part = tensor;
    part.view.shape = part_shape;
    part.view.data = static_cast<char*>(tensor.view.data) +
                     i * size * SizeOf(tensor.view.dtype);
    const Fp8Scale scale = {scales.numbers.data() + i * scales.part_size,
                            scales.rows, scales.columns};
    RETURN_IF_ERROR(ReadNumbers<T>(name, part, &scale, out + i * size));
  }
  return absl::OkStatus();
}

// The same in BF16, as it is or rounded.
absl::Status FillNarrow(const ModelConfig& config, const std::string& name,
                        const StoredTensor& tensor, const Shape& part_shape,
                        int64_t parts, const StoredTensors& tensors,
                        BFloat16* out) {
  if (tensor.view.dtype == DType::kBF16 && tensor.paired_heads == 0) {
    return CopyNarrow(name, tensor, out);
  }
  std::vector<float> wide(tensor.view.num_elements());
  RETURN_IF_ERROR(
      Fill(config, name, tensor, part_shape, parts, tensors, wide.data()));
  std::transform(wide.begin(), wide.end(), out, RoundToBFloat16);
  return absl::OkStatus();
}

// A part's shape where a tensor of ours is `parts` of them.
Shape DividedShape(const Shape& shape, int64_t parts) {
  if (parts == 1) return shape;
  Shape part = shape;
  if (shape.size() == 3) part.erase(part.begin());
  part[0] = NumElements(shape) / parts / (NumElements(part) / part[0]);
  return part;
}

std::string ReasonOf(const ModelConfig& config, const std::string& name) {
  constexpr absl::string_view kLayers = "model.layers.";
  if (absl::StartsWith(name, kLayers)) {
    const absl::string_view rest =
        absl::string_view(name).substr(kLayers.size());
    int64_t layer = 0;
    if (absl::SimpleAtoi(rest.substr(0, rest.find('.')), &layer) &&
        layer >= config.num_layers()) {
      return absl::StrCat("of layer ", layer, ", beyond the ",
                          config.num_layers(),
                          " of the model (multi-token prediction)");
    }
  }
  if (absl::StrContains(name, "rotary_emb.")) {
    return "a rotary table, which is computed from the config";
  }
  if (name == "lm_head.weight" && config.tie_embeddings()) {
    return "the output projection is the embedding table (tie_word_embeddings)";
  }
  if (absl::EndsWith(name, kScaleSuffix)) return "the scale of no fp8 weight";
  return "the architecture and config have no tensor of that name";
}

}  // namespace

void SplitExperts(const StoredTensors& tensors, WeightLayout& layout) {
  if (!layout.own) return;
  for (WeightParts& entry : layout.map) {
    if (!IsOfExperts(entry.name, entry.shape) ||
        tensors.count(entry.name) > 0 ||
        tensors.count(ExpertPart(entry.name, 0)) == 0) {
      continue;
    }
    entry.parts.clear();
    for (int64_t e = 0; e < entry.shape[0]; ++e) {
      entry.parts.push_back(ExpertPart(entry.name, e));
    }
    entry.part_shape.erase(entry.part_shape.begin());
  }
}

absl::StatusOr<PartScales> ReadScales(const ModelConfig& config,
                                      const std::string& name,
                                      const Shape& part_shape, int64_t parts,
                                      const StoredTensors& tensors) {
  PartScales scales;
  if (!IsFp8(tensors.at(name))) return scales;
  const std::string scale_name = absl::StrCat(name, kScaleSuffix);
  const auto it = tensors.find(scale_name);
  if (it == tensors.end() || config.fp8_block_rows() == 0 ||
      part_shape.size() != 2) {
    return absl::InvalidArgumentError(absl::StrCat(
        "tensor ", Shown(name), " is ", Name(tensors.at(name).view.dtype),
        "; want a matrix, ", Shown(scale_name),
        " beside it, and a quantization_config with weight_block_size"));
  }
  scales.rows = config.fp8_block_rows();
  scales.columns = config.fp8_block_columns();
  const int64_t rows = CeilDiv(part_shape[0], scales.rows);
  const int64_t columns = CeilDiv(part_shape[1], scales.columns);
  const Shape want =
      parts == 1 ? Shape{rows, columns} : Shape{parts, rows, columns};
  const StoredTensor& scale = it->second;
  if (scale.view.shape != want || !IsReadable(scale.view.dtype) ||
      IsFp8(scale)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "tensor ", Shown(scale_name), " is ", Name(scale.view.dtype),
        ToString(scale.view.shape), "; want F32", ToString(want),
        ", blocks of ", scales.rows, " x ", scales.columns));
  }
  scales.part_size = rows * columns;
  scales.numbers.resize(parts * scales.part_size);
  RETURN_IF_ERROR(ReadNumbers<float>(scale_name, scale, /*scale=*/nullptr,
                                     scales.numbers.data()));
  return scales;
}

absl::Status FillState(absl::string_view where, const ModelConfig& config,
                       const WeightLayout& layout, const StoredTensors& tensors,
                       StateStore& state) {
  RETURN_IF_ERROR(CheckComplete(where, layout, tensors));
  // All shapes before any number.
  for (const WeightParts& entry : layout.map) {
    for (const std::string& part : entry.parts) {
      const TensorView& view = tensors.at(part).view;
      if (view.shape == entry.part_shape && IsReadable(view.dtype)) continue;
      return absl::InvalidArgumentError(
          absl::StrCat(where, ": tensor ", Shown(part), " is ",
                       Name(view.dtype), ToString(view.shape), "; want ",
                       ToString(entry.part_shape), " of ", kReadableDTypes));
    }
  }
  for (const WeightParts& entry : layout.map) {
    const TensorView& to = state.Get(entry.name);
    if (to.dtype == DType::kU8) {
      const absl::Status packed = PackParts(entry, tensors, to);
      if (packed.ok()) continue;
      return absl::Status(packed.code(),
                          absl::StrCat(where, ": ", packed.message()));
    }
    CHECK(to.shape == entry.shape) << entry.name;
    const int64_t size = NumElements(entry.part_shape);
    const bool whole = layout.own && entry.parts.size() == 1;
    const int64_t parts = whole ? NumParts(entry.name, entry.shape) : 1;
    const Shape part_shape =
        whole ? DividedShape(entry.shape, parts) : entry.part_shape;
    for (size_t i = 0; i < entry.parts.size(); ++i) {
      const std::string& part = entry.parts[i];
      const StoredTensor& from = tensors.at(part);
      const auto fill = [&](auto function, auto* out) {
        return function(config, part, from, part_shape, parts, tensors,
                        out + i * size);
      };
      const absl::Status status =
          to.dtype == DType::kF64    ? fill(Fill<double>, to.as<double>())
          : to.dtype == DType::kBF16 ? fill(FillNarrow, to.as<BFloat16>())
                                     : fill(Fill<float>, to.as<float>());
      if (!status.ok()) {
        return absl::Status(status.code(),
                            absl::StrCat(where, ": ", status.message()));
      }
    }
  }
  return absl::OkStatus();
}

std::vector<UnusedTensor> FindUnused(const ModelConfig& config,
                                     const WeightLayout& layout,
                                     const StoredTensors& tensors) {
  std::set<std::string> used;
  for (const WeightParts& entry : layout.map) {
    for (const std::string& part : entry.parts) {
      used.insert(part);
      const auto it = tensors.find(part);
      if (it != tensors.end() && IsFp8(it->second)) {
        used.insert(absl::StrCat(part, kScaleSuffix));
      }
    }
  }
  std::vector<UnusedTensor> unused;
  for (const auto& [name, tensor] : tensors) {
    if (used.count(name) == 0) unused.push_back({name, ReasonOf(config, name)});
  }
  return unused;
}

std::vector<std::string> DescribeUnused(
    const std::vector<UnusedTensor>& unused) {
  std::map<std::string, std::vector<std::string>> names_of;
  for (const UnusedTensor& tensor : unused) {
    names_of[tensor.reason].push_back(Shown(tensor.name));
  }
  std::vector<std::string> lines;
  for (const auto& [reason, names] : names_of) {
    lines.push_back(absl::StrCat(
        names.size(), names.size() == 1 ? " tensor is" : " tensors are",
        " not used: ", reason, ": ", ListOf(names)));
  }
  return lines;
}

bool IsHfFolder(const std::string& dir) {
  const absl::StatusOr<std::string> text =
      ReadFile(absl::StrCat(dir, "/", kConfigFile));
  if (!text.ok()) return false;
  const std::string name = ArchitectureName(*text);
  return !name.empty() && name != kOwnArchitecture;
}

absl::Status LoadModelWeights(const std::string& dir, const ModelConfig& config,
                              StateStore& state,
                              std::vector<UnusedTensor>* unused,
                              WeightStorage storage) {
  GraphBuilder builder;
  DecoderOptions options;
  options.mode = DecoderOptions::Mode::kEvaluate;
  options.max_tokens = 1;
  BuildDecoder(builder, config, options);
  ASSIGN_OR_RETURN(Graph graph, builder.Finish());
  WeightLayout layout;
  layout.own = !IsHfFolder(dir);
  if (layout.own && config.fp8_block_rows() == 0 &&
      storage != WeightStorage::kBF16) {
    const std::string single = absl::StrCat(dir, "/", kWeightsFile);
    const absl::StatusOr<WeightFiles> file = WeightFiles::OpenFile(single);
    bool as_it_is = file.ok() || !absl::IsNotFound(file.status());
    if (file.ok()) {
      for (const auto& [name, tensor] : file->tensors()) {
        as_it_is &= tensor.view.dtype == DType::kF32 &&
                    tensor.packing == StoredTensor::Packing::kNone;
      }
    }
    if (as_it_is) {
      RETURN_IF_ERROR(state.Declare(graph));
      return LoadTensors(single, ModelTensorNames(graph), state);
    }
  }
  if (layout.own) {
    ASSIGN_OR_RETURN(layout.map, OwnWeightMap(config));
  } else {
    ASSIGN_OR_RETURN(layout.map, HfWeightMap(config));
  }
  ASSIGN_OR_RETURN(WeightFiles opened, WeightFiles::Open(dir));
  const auto files = std::make_shared<const WeightFiles>(std::move(opened));
  const StoredTensors& tensors = files->tensors();
  SplitExperts(tensors, layout);
  if (storage != WeightStorage::kF32) {
    ASSIGN_OR_RETURN(std::set<std::string> narrow,
                     NarrowParameters(config, layout.map, tensors, storage));
    for (const std::string& name : state.names()) {
      if (state.Get(name).dtype != DType::kBF16) narrow.erase(name);
    }
    AdoptInPlace(layout.map, narrow, files, state);
    graph = NarrowWeights(graph, narrow);
  }
  if (storage == WeightStorage::kAsStored || storage == WeightStorage::kAlike) {
    ASSIGN_OR_RETURN(auto packed,
                     PackedParameters(config, layout.map, tensors));
    ASSIGN_OR_RETURN(auto mixed, MixedParameters(config, layout.map, tensors));
    if (storage == WeightStorage::kAlike) MakeAlike(packed, mixed);
    for (const std::string& name : state.names()) {
      if (state.Get(name).dtype == DType::kU8) continue;
      packed.erase(name);
      mixed.erase(name);
    }
    ASSIGN_OR_RETURN(graph, QuantizeWeights(graph, packed, mixed));
  }
  RETURN_IF_ERROR(state.Declare(graph));
  RETURN_IF_ERROR(FillState(dir, config, layout, tensors, state));
  std::vector<UnusedTensor> rest = FindUnused(config, layout, tensors);
  if (layout.own && !rest.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        dir, ": tensor ", Shown(rest[0].name),
        " belongs to another model; this one has no tensor of that name"));
  }
  if (unused != nullptr) *unused = std::move(rest);
  return absl::OkStatus();
}

}  // namespace strata
