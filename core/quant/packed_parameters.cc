#include "core/quant/packed_parameters.h"

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "core/base/status_macros.h"
#include "core/checkpoint/stored_tensor.h"
#include "core/checkpoint/weight_map.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/model/config.pb.h"
#include "core/model/decoder.h"
#include "core/passes/quantize_weights.h"
#include "core/quant/format.h"
#include "core/quant/mixed_rows.h"
#include "core/quant/packed_rows.h"
#include "core/quant/packed_tensors.h"
#include "core/tensor/shape.h"
#include "core/tensor/tensor.h"

namespace strata {
namespace {

// The tensor, if it is quantised and of that shape; else null.
const StoredTensor* FindPacked(const StoredTensors& tensors,
                               const std::string& name, const Shape& shape) {
  const auto it = tensors.find(name);
  return it != tensors.end() && it->second.view.shape == shape &&
                 it->second.packing == StoredTensor::Packing::kGroups
             ? &it->second
             : nullptr;
}

bool AnyPacked(const StoredTensors& tensors) {
  return std::any_of(tensors.begin(), tensors.end(), [](const auto& entry) {
    return entry.second.packing == StoredTensor::Packing::kGroups;
  });
}

// Each expert's format, or none where the parts are alike, no experts' or not
// all quantised.
ExpertFormats MixedFormatsOf(const WeightParts& entry,
                             const StoredTensors& tensors) {
  const auto parts = static_cast<int64_t>(entry.parts.size());
  if (entry.shape.size() != 3 || parts % entry.shape[0] != 0) return {};
  const int64_t slices = parts / entry.shape[0];
  ExpertFormats formats;
  bool alike = true;
  for (int64_t i = 0; i < parts; ++i) {
    const StoredTensor* const part =
        FindPacked(tensors, entry.parts[i], entry.part_shape);
    if (part == nullptr) return {};
    const QuantFormat& format = part->groups.format;
    if (i % slices == 0) formats.push_back(format);
    if (format != formats.back()) return {};
    alike &= format == formats.front();
  }
  return alike ? ExpertFormats() : formats;
}

}  // namespace

bool IsOfGate(const std::string& name) {
  const std::vector<absl::string_view> words = absl::StrSplit(name, '.');
  return std::find(words.begin(), words.end(), "gate") != words.end();
}

absl::StatusOr<std::set<std::string>> QuantizableParameters(
    const ModelConfig& config) {
  using Mode = DecoderOptions::Mode;
  std::vector<Mode> modes = {Mode::kEvaluate, Mode::kLogits, Mode::kGenerate};
  if (config.mtp().num_layers() > 0) modes.push_back(Mode::kDraft);
  std::set<std::string> names, refused;
  for (const Mode mode : modes) {
    GraphBuilder builder;
    DecoderOptions options;
    options.mode = mode;
    options.max_tokens = 1;
    BuildDecoder(builder, config, options);
    ASSIGN_OR_RETURN(const Graph graph, builder.Finish());
    const std::set<std::string> of_mode = QuantizableWeights(graph);
    names.insert(of_mode.begin(), of_mode.end());
    for (const Value& value : graph.values()) {
      if (value.role == Role::kParameter && of_mode.count(value.name) == 0) {
        refused.insert(value.name);
      }
    }
  }
  for (const std::string& name : refused) names.erase(name);
  return names;
}

absl::StatusOr<std::set<std::string>> ParametersToQuantize(
    const ModelConfig& config) {
  ASSIGN_OR_RETURN(std::set<std::string> names, QuantizableParameters(config));
  for (auto it = names.begin(); it != names.end();) {
    it = IsOfGate(*it) ? names.erase(it) : std::next(it);
  }
  return names;
}

absl::StatusOr<std::map<std::string, QuantFormat>> PackedParameters(
    const ModelConfig& config, const std::vector<WeightParts>& map,
    const StoredTensors& tensors) {
  std::map<std::string, QuantFormat> formats;
  if (!AnyPacked(tensors)) return formats;
  ASSIGN_OR_RETURN(const std::set<std::string> names,
                   QuantizableParameters(config));
  for (const WeightParts& entry : map) {
    if (names.count(entry.name) == 0) continue;
    const StoredTensor* const first =
        FindPacked(tensors, entry.parts[0], entry.part_shape);
    if (first == nullptr) continue;
    const bool alike = std::all_of(
        entry.parts.begin(), entry.parts.end(), [&](const std::string& part) {
          const StoredTensor* const tensor =
              FindPacked(tensors, part, entry.part_shape);
          return tensor != nullptr &&
                 tensor->groups.format == first->groups.format;
        });
    if (alike) formats[entry.name] = first->groups.format;
  }
  return formats;
}

absl::StatusOr<std::map<std::string, ExpertFormats>> MixedParameters(
    const ModelConfig& config, const std::vector<WeightParts>& map,
    const StoredTensors& tensors) {
  std::map<std::string, ExpertFormats> mixed;
  if (!AnyPacked(tensors)) return mixed;
  ASSIGN_OR_RETURN(const std::set<std::string> names,
                   QuantizableParameters(config));
  for (const WeightParts& entry : map) {
    if (names.count(entry.name) == 0) continue;
    ExpertFormats formats = MixedFormatsOf(entry, tensors);
    if (!formats.empty()) mixed[entry.name] = std::move(formats);
  }
  return mixed;
}

void MakeAlike(std::map<std::string, QuantFormat>& packed,
               std::map<std::string, ExpertFormats>& mixed) {
  for (auto& [name, format] : packed) format = FormatForAll({format});
  for (const auto& [name, formats] : mixed) {
    packed[name] = FormatForAll(formats);
  }
  mixed.clear();
}

absl::Status PackParts(const WeightParts& entry, const StoredTensors& tensors,
                       const TensorView& to) {
  auto* out = to.as<uint8_t>();
  const bool is_mixed = to.rank() == 1;
  if (is_mixed) {
    const ExpertFormats formats = MixedFormatsOf(entry, tensors);
    const std::string letters = LettersOf(formats);
    std::copy(letters.begin(), letters.end(), out);
    out += LetterBytes(static_cast<int64_t>(formats.size()));
  }
  for (const std::string& part : entry.parts) {
    const StoredTensor& tensor = tensors.at(part);
    const int64_t columns = tensor.groups.columns;
    const QuantFormat format =
        is_mixed ? tensor.groups.format
                 : *FormatOfRow(to.dim(to.rank() - 1), columns);
    const int64_t bytes = PackedRow(format, columns).bytes;
    const int64_t rows = tensor.view.num_elements() / columns;
    for (int64_t row = 0; row < rows; ++row, out += bytes) {
      RETURN_IF_ERROR(PackTensorRow(part, tensor, row, format, out));
    }
  }
  return absl::OkStatus();
}

}  // namespace strata
