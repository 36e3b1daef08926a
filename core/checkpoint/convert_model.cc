#include "core/checkpoint/convert_model.h"

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/base/files.h"
#include "core/base/staged_directory.h"
#include "core/base/status_macros.h"
#include "core/checkpoint/hf_config.h"
#include "core/checkpoint/hf_fields.h"
#include "core/checkpoint/load_model.h"
#include "core/checkpoint/model_files.h"
#include "core/checkpoint/model_source.h"
#include "core/checkpoint/stored_tensor.h"
#include "core/checkpoint/weight_files.h"
#include "core/checkpoint/weight_map.h"
#include "core/model/config.h"
#include "core/tensor/dtype.h"
#include "core/tensor/shape.h"

namespace strata {
namespace {

namespace fs = std::filesystem;

constexpr absl::string_view kScaleSuffix = "_scale_inv";
constexpr int64_t kPieceElements = 1 << 18;

// What belongs to a model and is copied as it is.
constexpr const char* kCompanions[] = {
    "tokenizer.json",     "tokenizer_config.json",
    "tokenizer.model",    "special_tokens_map.json",
    "added_tokens.json",  "vocab.json",
    "merges.txt",         "generation_config.json",
    "chat_template.jinja"};

bool IsRaw(const StoredTensor& tensor) {
  return tensor.packing == StoredTensor::Packing::kNone &&
         tensor.paired_heads == 0;
}

// Appends the numbers of `tensor` as F32.
absl::Status AppendNumbers(const std::string& name, const StoredTensor& tensor,
                           TensorToWrite::Append append) {
  std::vector<float> numbers(tensor.view.num_elements());
  RETURN_IF_ERROR(
      ReadNumbers<float>(name, tensor, /*scale=*/nullptr, numbers.data()));
  return append(absl::string_view(reinterpret_cast<const char*>(numbers.data()),
                                  numbers.size() * sizeof(float)));
}

// Appends the bytes of `tensor` in pieces that were seen to be finite.
absl::Status AppendBytes(const std::string& name, const StoredTensor& tensor,
                         TensorToWrite::Append append) {
  const char* const data = static_cast<const char*>(tensor.view.data);
  const int64_t all = tensor.view.num_elements();
  const int size = SizeOf(tensor.view.dtype);
  std::vector<float> numbers(std::min(all, kPieceElements));
  for (int64_t first = 0; first < all; first += kPieceElements) {
    const int64_t n = std::min(kPieceElements, all - first);
    if (IsReadable(tensor.view.dtype)) {
      StoredTensor piece;
      piece.view = {
          tensor.view.dtype, {n}, const_cast<char*>(data + first * size)};
      const absl::Status status =
          ReadNumbers<float>(name, piece, /*scale=*/nullptr, numbers.data());
      if (!status.ok()) {
        return absl::Status(
            status.code(), absl::StrCat(status.message(),
                                        " (counted from element ", first, ")"));
      }
    }
    RETURN_IF_ERROR(append(absl::string_view(data + first * size, n * size)));
  }
  return absl::OkStatus();
}

class Planner {
 public:
  explicit Planner(const ModelSource& source) : source_(source) {}

  absl::Status Check() const {
    for (const WeightParts& entry : source_.layout.map) {
      for (const std::string& part : entry.parts) {
        const auto it = source_.tensors.find(part);
        if (it == source_.tensors.end()) {
          return absl::InvalidArgumentError(
              absl::StrCat("tensor ", Shown(part), " of the model is missing"));
        }
        const TensorView& view = it->second.view;
        if (view.shape != entry.part_shape || !IsReadable(view.dtype)) {
          return absl::InvalidArgumentError(absl::StrCat(
              "tensor ", Shown(part), " is ", Name(view.dtype),
              ToString(view.shape), "; want ", ToString(entry.part_shape),
              " of ", kReadableDTypes));
        }
      }
    }
    return absl::OkStatus();
  }

  // Our tensors, each of its parts.
  absl::StatusOr<std::vector<TensorToWrite>> Own() const {
    std::vector<TensorToWrite> tensors;
    for (const WeightParts& entry : source_.layout.map) {
      std::vector<std::string> names = entry.parts;
      bool raw = true;
      for (const std::string& name : names) {
        raw = raw && IsRaw(At(name)) &&
              At(name).view.dtype == At(names[0]).view.dtype;
      }
      bool scaled = false;
      for (const std::string& name : names) scaled |= IsScaled(name);
      if (scaled && !raw) {
        return absl::UnimplementedError(absl::StrCat(
            "the parts of ", Shown(entry.name),
            " are fp8 and other dtypes, which is not supported; want one"));
      }
      tensors.push_back(
          {entry.name, raw ? At(names[0]).view.dtype : DType::kF32, entry.shape,
           [this, names, raw](TensorToWrite::Append append) {
             return AppendAll(names, raw, append);
           }});
      if (!scaled) continue;
      const int64_t parts = NumParts(entry.name, entry.shape);
      std::vector<std::string> scales;
      for (const std::string& name : names) scales.push_back(Scale(name));
      RETURN_IF_ERROR(CheckScales(names, parts / names.size()));
      Shape shape = At(scales[0]).view.shape;
      if (names.size() > 1) {
        shape.insert(shape.begin(), static_cast<int64_t>(names.size()));
      }
      tensors.push_back({Scale(entry.name), At(scales[0]).view.dtype, shape,
                         [this, scales](TensorToWrite::Append append) {
                           return AppendAll(scales, /*raw=*/true, append);
                         }});
    }
    return tensors;
  }

  // The public tensors: parts of ours, or what is there.
  absl::StatusOr<std::vector<TensorToWrite>> Public(
      const std::vector<WeightParts>& map) const {
    std::vector<TensorToWrite> tensors;
    for (size_t at = 0; at < map.size(); ++at) {
      const WeightParts& entry = map[at];
      const auto num_parts = static_cast<int64_t>(entry.parts.size());
      for (int64_t i = 0; i < num_parts; ++i) {
        const std::string& name = entry.parts[i];
        const std::string& from = source_.layout.own ? entry.name : name;
        const bool scaled = IsScaled(from);
        if (scaled) {
          RETURN_IF_ERROR(
              CheckScales({from}, source_.layout.own ? num_parts : 1));
        }
        Add(name, from, i, num_parts, entry.part_shape, tensors);
        if (!scaled) continue;
        Shape shape = At(Scale(from)).view.shape;
        if (shape.size() == 3) shape.erase(shape.begin());
        Add(Scale(name), Scale(from), i, num_parts, shape, tensors);
      }
    }
    return tensors;
  }

  // What no part of the model needs, as it is.
  void AddRest(std::vector<TensorToWrite>& tensors) const {
    for (const UnusedTensor& unused : source_.unused) {
      AddAsIs(unused.name, At(unused.name), tensors);
    }
    for (const auto& [name, tensor] : source_.kept) {
      AddAsIs(name, tensor, tensors);
    }
  }

 private:
  const StoredTensor& At(const std::string& name) const {
    return source_.tensors.at(name);
  }
  static std::string Scale(const std::string& name) {
    return absl::StrCat(name, kScaleSuffix);
  }
  bool IsScaled(const std::string& name) const {
    const DType dtype = At(name).view.dtype;
    return dtype == DType::kF8E4M3 || dtype == DType::kF8E5M2;
  }

  absl::Status CheckScales(const std::vector<std::string>& names,
                           int64_t parts) const {
    for (const std::string& name : names) {
      Shape shape = At(name).view.shape;
      if (parts > 1) {
        const int64_t columns = shape.back();
        shape = {At(name).view.num_elements() / parts / columns, columns};
      }
      RETURN_IF_ERROR(
          ReadScales(source_.config, name, shape, parts, source_.tensors)
              .status());
      if (At(Scale(name)).view.dtype != At(Scale(names[0])).view.dtype) {
        return absl::InvalidArgumentError(
            absl::StrCat("tensor ", Shown(Scale(name)),
                         " has another dtype than ", Shown(Scale(names[0]))));
      }
    }
    return absl::OkStatus();
  }

  absl::Status AppendAll(const std::vector<std::string>& names, bool raw,
                         TensorToWrite::Append append) const {
    for (const std::string& name : names) {
      RETURN_IF_ERROR(raw ? AppendBytes(name, At(name), append)
                          : AppendNumbers(name, At(name), append));
    }
    return absl::OkStatus();
  }

  // Public tensor `name`: `from`, or part `i` of it if it is ours.
  void Add(const std::string& name, const std::string& from, int64_t i,
           int64_t num_parts, const Shape& shape,
           std::vector<TensorToWrite>& tensors) const {
    const StoredTensor part =
        source_.layout.own ? PartOf(At(from), i, num_parts, shape) : At(from);
    const bool raw = IsRaw(part);
    tensors.push_back({name, raw ? part.view.dtype : DType::kF32, shape,
                       [name, part, raw](TensorToWrite::Append append) {
                         return raw ? AppendBytes(name, part, append)
                                    : AppendNumbers(name, part, append);
                       }});
  }

  static void AddAsIs(const std::string& name, const StoredTensor& tensor,
                      std::vector<TensorToWrite>& tensors) {
    if (!IsRaw(tensor)) return;  // Of GGUF, which there is no way back to.
    tensors.push_back({name, tensor.view.dtype, tensor.view.shape,
                       [tensor](TensorToWrite::Append append) {
                         return append(absl::string_view(
                             static_cast<const char*>(tensor.view.data),
                             tensor.view.num_bytes()));
                       }});
  }

  const ModelSource& source_;
};

// What transformers calls most of the weights.
std::string DTypeNameOf(const std::vector<TensorToWrite>& tensors) {
  std::map<DType, int64_t> elements;
  for (const TensorToWrite& tensor : tensors) {
    elements[tensor.dtype] += NumElements(tensor.shape);
  }
  const int64_t f32 = elements[DType::kF32], f16 = elements[DType::kF16];
  const int64_t bf16 = elements[DType::kBF16] + elements[DType::kF8E4M3];
  if (bf16 >= f32 && bf16 >= f16) return "bfloat16";
  return f16 > f32 ? "float16" : "float32";
}

absl::StatusOr<std::string> PublicConfig(
    const ModelSource& source, const std::vector<TensorToWrite>& tensors) {
  if (!source.hf_config.empty()) {
    const absl::StatusOr<ModelConfig> original =
        ModelConfigFromHf(source.hf_config);
    // Whether there is a prediction module, the weights say.
    ModelConfig config = source.config;
    config.clear_mtp();
    if (original.ok() && ToJson(*original) == ToJson(config)) {
      return source.hf_config;
    }
  }
  return HfConfigText(source.config, DTypeNameOf(tensors));
}

absl::Status WriteCompanions(const std::string& from,
                             const ConvertOptions& options,
                             StagedDirectory& staged) {
  for (const auto& [name, content] : options.files) {
    RETURN_IF_ERROR(staged.WriteFile(name, content));
  }
  if (from.empty() || !options.copies_tokenizer) return absl::OkStatus();
  for (const char* const name : kCompanions) {
    if (options.files.count(name) > 0) continue;
    const absl::StatusOr<std::string> text =
        ReadFile(absl::StrCat(from, "/", name));
    if (absl::IsNotFound(text.status())) continue;
    RETURN_IF_ERROR(text.status());
    RETURN_IF_ERROR(staged.WriteFile(name, *text));
  }
  return absl::OkStatus();
}

int64_t BytesOf(const std::vector<TensorToWrite>& tensors) {
  int64_t bytes = 0;
  for (const TensorToWrite& tensor : tensors) {
    bytes += NumElements(tensor.shape) * SizeOf(tensor.dtype);
  }
  return bytes;
}

}  // namespace

absl::StatusOr<ConvertResult> ConvertModel(const ModelSource& source,
                                           const std::string& folder,
                                           const ConvertOptions& options) {
  std::error_code ignored;
  if (!options.replace && fs::exists(folder, ignored)) {
    return absl::AlreadyExistsError(
        absl::StrCat(folder, " is there already; want a new folder"));
  }
  const Planner planner(source);
  RETURN_IF_ERROR(planner.Check());
  const bool to_own = options.to == ModelFormat::kStrata;
  std::vector<TensorToWrite> tensors, rest;
  if (to_own) {
    ASSIGN_OR_RETURN(tensors, planner.Own());
    planner.AddRest(rest);
  } else {
    ASSIGN_OR_RETURN(const std::vector<WeightParts> map,
                     HfWeightMap(source.config));
    ASSIGN_OR_RETURN(tensors, planner.Public(map));
    planner.AddRest(tensors);
  }
  std::string config = ToJson(source.config);
  if (!to_own) {
    ASSIGN_OR_RETURN(config, PublicConfig(source, tensors));
  }
  ASSIGN_OR_RETURN(StagedDirectory staged, StagedDirectory::Create(folder));
  ConvertResult result;
  result.unused = source.unused;
  result.num_tensors = static_cast<int64_t>(tensors.size() + rest.size());
  result.num_bytes = BytesOf(tensors) + BytesOf(rest);
  WriteOptions write;
  write.max_shard_bytes = options.max_shard_bytes;
  if (options.progress) {
    write.progress = [&](int64_t done) {
      options.progress(done, result.num_bytes);
    };
  }
  RETURN_IF_ERROR(WriteWeights(staged.path(), tensors, write));
  if (!rest.empty()) {
    RETURN_IF_ERROR(WriteWeightsFile(
        absl::StrCat(staged.path(), "/", kUnusedWeightsFile), rest, {}));
  }
  RETURN_IF_ERROR(staged.WriteFile(kConfigFile, config));
  if (to_own && !source.hf_config.empty()) {
    RETURN_IF_ERROR(staged.WriteFile(kOriginalConfigFile, source.hf_config));
  }
  RETURN_IF_ERROR(WriteCompanions(source.folder, options, staged));
  RETURN_IF_ERROR(staged.Commit());
  return result;
}

}  // namespace strata
