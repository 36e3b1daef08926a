#include "core/quant/quantize_model.h"

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/base/files.h"
#include "core/base/sha256.h"
#include "core/base/staged_directory.h"
#include "core/base/status_macros.h"
#include "core/base/thread_pool.h"
#include "core/checkpoint/load_model.h"
#include "core/checkpoint/model_files.h"
#include "core/checkpoint/model_source.h"
#include "core/checkpoint/stored_tensor.h"
#include "core/checkpoint/weight_files.h"
#include "core/checkpoint/weight_map.h"
#include "core/cpu/all_kernels.h"
#include "core/cpu/cpu_backend.h"
#include "core/quant/bit_budget.h"
#include "core/quant/bit_gains.h"
#include "core/quant/calibrate.h"
#include "core/quant/input_moments.h"
#include "core/quant/input_taps.h"
#include "core/quant/layer_inputs.h"
#include "core/quant/packed_parameters.h"
#include "core/quant/plain_tensors.h"
#include "core/quant/quantized_files.h"
#include "core/quant/quantized_matrix.h"
#include "core/quant/quantized_weight.h"
#include "core/quant/stored_formats.h"
#include "core/quant/stored_groups.h"
#include "core/quant/stored_matrices.h"
#include "core/runtime/backend.h"
#include "core/runtime/state_store.h"
#include "core/tensor/dtype.h"
#include "core/tensor/shape.h"
#include "core/tensor/tensor.h"
#include "nlohmann/json.hpp"

namespace strata {
namespace {

namespace fs = std::filesystem;

// What belongs to a model and is copied as it is.
constexpr const char* kCompanions[] = {
    "tokenizer.json",     "tokenizer_config.json",
    "tokenizer.model",    "special_tokens_map.json",
    "added_tokens.json",  "vocab.json",
    "merges.txt",         "generation_config.json",
    "chat_template.jinja"};

// "model.layers.3." of a name in a layer, else "".
std::string LayerOf(const std::string& name) {
  constexpr absl::string_view kLayers = "model.layers.";
  if (!absl::StartsWith(name, kLayers)) return "";
  return name.substr(0, name.find('.', kLayers.size()) + 1);
}

// "lm_head" of "lm_head.weight".
std::string ModuleOf(const std::string& tensor) {
  return tensor.substr(0, tensor.rfind('.'));
}

void AddTarget(const QuantFormat& format, const std::string& module,
               QuantSchemes& schemes) {
  for (auto& [of, targets] : schemes) {
    if (of == format) {
      targets.push_back(module);
      return;
    }
  }
  schemes.push_back({format, {module}});
}

class ModelQuantizer {
 public:
  ModelQuantizer(const std::string& folder, const std::string& out,
                 const std::vector<TokenBatch>& batches,
                 const QuantizeOptions& options)
      : folder_(folder),
        out_(out),
        work_(absl::StrCat(out, ".partial")),
        batches_(batches),
        options_(options),
        formats_(options.format, options.head_bits,
                 options.rows_where_indivisible, options.budget_bytes > 0),
        pool_(options.num_threads) {}

  absl::StatusOr<QuantizeResult> Run() {
    std::error_code ignored;
    if (!options_.replace && fs::exists(out_, ignored)) {
      return absl::AlreadyExistsError(
          absl::StrCat(out_, " is there already; want a new folder"));
    }
    if (options_.backend) {
      ASSIGN_OR_RETURN(backend_, options_.backend());
    } else {
      backend_ =
          std::make_unique<CpuBackend>(options_.num_threads, AllCpuKernels());
    }
    state_ = std::make_unique<StateStore>(*backend_);
    RETURN_IF_ERROR(Open());
    if (options_.budget_bytes > 0) {
      std::vector<BitChoice> none;
      RETURN_IF_ERROR(SpendBytes(options_.budget_bytes, LeastBytes(), none));
      if (options_.output_weights) {
        ASSIGN_OR_RETURN(output_weights_, options_.output_weights());
      }
    }
    RETURN_IF_ERROR(MakeKey());
    RETURN_IF_ERROR(MakeFolders(work_));
    if (options_.budget_bytes > 0) RETURN_IF_ERROR(SpendBudget());
    RETURN_IF_ERROR(BeginLayers());
    const auto steps = static_cast<int64_t>(layers_.size());
    for (int64_t i = 0; i < steps; ++i) {
      if (options_.stop && options_.stop()) {
        return absl::CancelledError(absl::StrCat("stopped after ", i, " of ",
                                                 steps, " layers; ", work_,
                                                 " keeps them"));
      }
      RETURN_IF_ERROR(Layer(i));
      if (options_.progress) options_.progress(i + 1, steps);
    }
    inputs_ = nullptr;  // Its memory is wanted for what comes next.
    if (options_.learn || options_.retune) RoundPlain();
    if (options_.learn) RETURN_IF_ERROR(Learn());
    if (options_.retune) RETURN_IF_ERROR(options_.retune(*state_));
    RETURN_IF_ERROR(Write());
    fs::remove_all(work_, ignored);
    return std::move(result_);
  }

 private:
  absl::Status Open() {
    ASSIGN_OR_RETURN(source_, OpenModelSource(folder_));
    for (const auto& [name, tensor] : source_.tensors) {
      if (tensor.packing == StoredTensor::Packing::kNone &&
          tensor.view.dtype != DType::kF8E4M3 &&
          tensor.view.dtype != DType::kF8E5M2) {
        continue;
      }
      return absl::InvalidArgumentError(
          absl::StrCat(folder_, ": tensor \"", name,
                       "\" is quantised already; want a model "
                       "of floating-point weights"));
    }
    RETURN_IF_ERROR(LoadModelWeights(folder_, source_.config, *state_));
    ASSIGN_OR_RETURN(quantised_, ParametersToQuantize(source_.config));
    if (options_.head_bits == 0) quantised_.erase(kHead);
    if (options_.budget_bytes > 0 && options_.format.bits > 4) {
      return absl::InvalidArgumentError(
          absl::StrCat("a budget is for matrices of 2 or 4 bits, some of which "
                       "get more; want no format of ",
                       options_.format.bits));
    }
    for (const WeightParts& entry : source_.layout.map) {
      if (quantised_.count(entry.name) == 0) continue;
      RETURN_IF_ERROR(CheckFormat(entry.name, formats_.FormatOf(entry),
                                  entry.shape.back()));
      const std::string layer = LayerOf(entry.name);
      if (layers_.empty() || layers_.back().prefix != layer) {
        layers_.push_back({layer, {}});
      }
      layers_.back().entries.push_back(&entry);
    }
    return absl::OkStatus();
  }

  // What the layers of a run depend on.
  absl::Status MakeKey() {
    ASSIGN_OR_RETURN(const std::string hash, HashWeights(folder_));
    Sha256 key;
    key.Update(absl::StrCat(hash, ToText(options_.format), options_.head_bits,
                            " ", options_.budget_bytes, " ",
                            options_.rows_where_indivisible,
                            Name(options_.method)));
    for (const TokenBatch& batch : batches_) {
      key.Update(
          absl::string_view(reinterpret_cast<const char*>(batch.ids.data()),
                            batch.ids.size() * sizeof(int32_t)));
    }
    if (options_.budget_bytes > 0) {
      // Gates count with their bytes.
      if (options_.retune) key.Update(" retuned");
      for (const auto& [name, weights] : output_weights_) {
        key.Update(absl::StrCat(" ", name, " ", weights.size(), " "));
        key.Update(
            absl::string_view(reinterpret_cast<const char*>(weights.data()),
                              weights.size() * sizeof(float)));
      }
    }
    key_ = key.HexDigest();
    return absl::OkStatus();
  }

  struct LayerEntries {
    std::string prefix;
    std::vector<const WeightParts*> entries;
  };

  // Quantises layer `i`, or takes what an earlier run made of it, and puts its
  // numbers in place of the weights'.
  absl::Status Layer(int64_t i) {
    const std::string base = absl::StrCat(work_, "/layer-", i);
    std::vector<QuantizedWeight> report;
    if (!Resume(base, report)) {
      RETURN_IF_ERROR(Calibrated(layers_[i], base, report));
    } else {
      ++result_.layers_resumed;
    }
    result_.weights.insert(result_.weights.end(), report.begin(), report.end());
    ASSIGN_OR_RETURN(WeightFiles file,
                     WeightFiles::OpenFile(base + ".safetensors"));
    for (const WeightParts* const entry : layers_[i].entries) {
      float* out = state_->Get(entry->name).as<float>();
      for (const std::string& part : formats_.PartsOf(*entry).names) {
        const StoredTensor& tensor = file.tensors().at(part);
        RETURN_IF_ERROR(
            ReadNumbers<float>(part, tensor, /*scale=*/nullptr, out));
        out += tensor.view.num_elements();
        packed_[part] = tensor;
      }
    }
    files_.push_back(std::move(file));
    return absl::OkStatus();
  }

  bool Resume(const std::string& base, std::vector<QuantizedWeight>& report) {
    const absl::StatusOr<std::string> text = ReadFile(base + ".json");
    if (!text.ok()) return false;
    const nlohmann::json json = nlohmann::json::parse(
        *text, /*cb=*/nullptr, /*allow_exceptions=*/false);
    if (!json.is_object() || json.value("key", "") != key_) return false;
    for (const nlohmann::json& weight : json.at("weights")) {
      report.push_back(QuantizedWeightFromJson(weight));
    }
    return true;
  }

  // What comes next begins with the first layer.
  absl::Status BeginLayers() {
    if (batches_.empty()) return absl::OkStatus();
    ASSIGN_OR_RETURN(inputs_, LayerInputs::Create(source_.config, batches_,
                                                  *backend_, *state_));
    return absl::OkStatus();
  }

  // Of a layer behind the last that was asked for; none without data.
  absl::StatusOr<MomentsByName> Moments(const LayerEntries& layer) {
    if (batches_.empty()) return MomentsByName();
    std::set<std::string> names;
    for (const WeightParts* const entry : layer.entries) {
      names.insert(entry->name);
    }
    return MomentsOf(
        [&](SeeInputs see) { return inputs_->ForInputs(names, see); }, pool_);
  }

  absl::Status Calibrated(const LayerEntries& layer, const std::string& base,
                          std::vector<QuantizedWeight>& report) {
    ASSIGN_OR_RETURN(MomentsByName moments, Moments(layer));
    ArraysByName arrays;
    nlohmann::json json = {{"key", key_}, {"weights", nlohmann::json::array()}};
    for (const WeightParts* const entry : layer.entries) {
      ASSIGN_OR_RETURN(QuantizedWeight weight,
                       Matrix(*entry, moments[entry->name], arrays));
      json["weights"].push_back(ToJson(weight));
      report.push_back(std::move(weight));
    }
    std::vector<TensorToWrite> tensors;
    for (const auto& [part, array] : arrays) {
      for (TensorToWrite& tensor : GroupTensors(part, array.View())) {
        tensors.push_back(std::move(tensor));
      }
    }
    RETURN_IF_ERROR(WriteWeightsFile(base + ".safetensors", tensors, {}));
    return WriteFileAtomically(base + ".json", json.dump());
  }

  // What more bits take off the errors of an entry's matrices, to the choices
  // of their units.
  absl::Status AddGains(const WeightParts& entry,
                        const std::vector<InputMoments>& moments,
                        std::map<std::string, BitChoice>& choices) {
    MatrixStack matrix = {entry.name, state_->Get(entry.name).as<float>()};
    matrix.n = StoredFormats::NumMatrices(entry);
    matrix.columns = entry.shape.back();
    matrix.rows = NumElements(entry.shape) / matrix.n / matrix.columns;
    const QuantFormat format = formats_.FormatOf(entry);
    absl::Span<const float> output_weights;
    if (!output_weights_.empty()) {
      const auto given = output_weights_.find(entry.name);
      if (given == output_weights_.end()) {
        return absl::InvalidArgumentError(
            absl::StrCat("no weights are given for the outputs of tensor \"",
                         entry.name, "\", and for others there are"));
      }
      output_weights = given->second;
    }
    ASSIGN_OR_RETURN(
        const std::vector<std::vector<double>> gains,
        GainsOfBits(matrix, format, moments, output_weights, pool_));
    const std::vector<int> bits = BitsFrom(format.bits);
    for (int64_t e = 0; e < matrix.n; ++e) {
      BitChoice& choice = choices[StoredFormats::UnitOf(entry, e)];
      choice.name = StoredFormats::UnitOf(entry, e);
      choice.steps.resize(bits.size() - 1);
      for (size_t i = 0; i < choice.steps.size(); ++i) {
        BitChoice::Step& step = choice.steps[i];
        step.bits = bits[i + 1];
        step.gain += gains[e][i];
        step.extra_bytes += (formats_.BytesOf(entry, bits[i + 1]) -
                             formats_.BytesOf(entry, bits[i])) /
                            matrix.n;
      }
    }
    return absl::OkStatus();
  }

  // Of all tensors, where no matrix gets more bits.
  int64_t LeastBytes() const {
    int64_t least = 0;
    for (const WeightParts& entry : source_.layout.map) {
      if (quantised_.count(entry.name) > 0) {
        least += formats_.BytesOf(entry, formats_.FormatOf(entry).bits);
        continue;
      }
      for (size_t i = 0; i < entry.parts.size(); ++i) {
        const TensorToWrite tensor = Plain(entry, i);
        least += NumElements(tensor.shape) * SizeOf(tensor.dtype);
      }
    }
    return least;
  }

  // Chooses bits; of an earlier run's work, what that chose.
  absl::Status SpendBudget() {
    const std::string file = absl::StrCat(work_, "/budget.json");
    if (const absl::StatusOr<std::string> text = ReadFile(file); text.ok()) {
      const nlohmann::json json = nlohmann::json::parse(
          *text, /*cb=*/nullptr, /*allow_exceptions=*/false);
      if (json.is_object() && json.value("key", "") == key_) {
        formats_.Choose(json.at("bits").get<std::map<std::string, int>>());
        return absl::OkStatus();
      }
    }
    RETURN_IF_ERROR(BeginLayers());
    std::map<std::string, BitChoice> choices;
    for (const LayerEntries& layer : layers_) {
      if (options_.stop && options_.stop()) {
        return absl::CancelledError("stopped before bits were chosen");
      }
      ASSIGN_OR_RETURN(MomentsByName moments, Moments(layer));
      for (const WeightParts* const entry : layer.entries) {
        if (entry->name == kHead) continue;
        RETURN_IF_ERROR(AddGains(*entry, moments[entry->name], choices));
      }
    }
    std::vector<BitChoice> ordered;
    for (auto& [name, choice] : choices) ordered.push_back(std::move(choice));
    RETURN_IF_ERROR(SpendBytes(options_.budget_bytes, LeastBytes(), ordered));
    std::map<std::string, int> bits;
    for (const BitChoice& choice : ordered) {
      bits[choice.name] = choice.num_taken == 0
                              ? options_.format.bits
                              : choice.steps[choice.num_taken - 1].bits;
    }
    formats_.Choose(bits);
    return WriteFileAtomically(
        file, nlohmann::json({{"key", key_}, {"bits", bits}}).dump());
  }

  // All matrices of an entry, into the arrays of its parts.
  absl::StatusOr<QuantizedWeight> Matrix(
      const WeightParts& entry, const std::vector<InputMoments>& moments,
      ArraysByName& arrays) {
    const bool grouped = entry.shape.size() == 3;
    const int64_t experts = StoredFormats::NumMatrices(entry);
    const int64_t k = entry.shape.back();
    const int64_t rows = NumElements(entry.shape) / experts / k;
    const StoredParts parts = formats_.PartsOf(entry);
    const auto num_parts = static_cast<int64_t>(parts.names.size());
    QuantizedWeight weight;
    weight.name = entry.name;
    weight.format = formats_.FormatOf(entry);
    weight.num_weights = NumElements(entry.shape);
    if (experts > num_parts && !RowsFillWords(weight.format, rows)) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensor \"", entry.name, "\" has ", rows,
                       " rows an expert; "
                       "asymmetric codes of ",
                       weight.format.bits, " bits want a multiple of ",
                       32 / weight.format.bits));
    }
    InputMoments all;
    if (grouped && !moments.empty()) {
      all = SumOf(moments);
      weight.num_experts = experts;
      weight.fewest_inputs = moments[0].count;
    }
    const float* const w = state_->Get(entry.name).as<float>();
    std::vector<absl::StatusOr<CalibratedMatrix>> made(
        experts, absl::UnknownError("not quantised"));
    const auto calibrate = [&](int64_t e, ThreadPool& pool) {
      made[e] = CalibrateMatrix(entry.name, w + e * rows * k, rows, k,
                                formats_.FormatOf(entry, e), options_.method,
                                moments.empty() ? nullptr : &moments[e],
                                weight.num_experts > 0 ? &all : nullptr, pool);
    };
    if (experts > 1) {  // An expert a thread: a part of each is serial.
      pool_.ParallelFor(experts, [&](int64_t e) {
        ThreadPool alone(1);
        calibrate(e, alone);
      });
    } else {
      calibrate(0, pool_);
    }
    for (int64_t e = 0; e < experts; ++e) {
      RETURN_IF_ERROR(made[e].status());
      const QuantFormat& format = made[e]->matrix.format;
      if (formats_.chosen().count(StoredFormats::UnitOf(entry, e)) > 0) {
        ++weight.num_of_bits[format.bits];
      }
      weight.bits_per_weight +=
          BitsPerWeight(format, k) / static_cast<double>(experts);
      if (weight.num_experts > 0) {
        weight.fewest_inputs = std::min(weight.fewest_inputs, moments[e].count);
        weight.num_blended += moments[e].count < k;
      }
      weight.error += made[e]->error;
      AppendMatrix(made[e]->matrix, e, experts, parts, arrays);
    }
    return weight;
  }

  // Lets all matrices be changed: what files hold of them, and their numbers.
  absl::Status Learn() {
    QuantizedParameters matrices;
    for (const LayerEntries& layer : layers_) {
      for (const WeightParts* const entry : layer.entries) {
        matrices[entry->name] = ReadMatrices(StoredFormats::NumMatrices(*entry),
                                             formats_.PartsOf(*entry), packed_);
      }
    }
    RETURN_IF_ERROR(options_.learn(*state_, matrices));
    for (const LayerEntries& layer : layers_) {
      for (const WeightParts* const entry : layer.entries) {
        const std::vector<QuantizedMatrix>& learned = matrices.at(entry->name);
        float* out = state_->Get(entry->name).as<float>();
        for (size_t e = 0; e < learned.size(); ++e) {
          AppendMatrix(learned[e], static_cast<int64_t>(e),
                       StoredFormats::NumMatrices(*entry),
                       formats_.PartsOf(*entry), learned_);
          for (int64_t row = 0; row < learned[e].rows; ++row) {
            learned[e].DequantizeRow(row, out);
            out += learned[e].columns;
          }
        }
      }
    }
    for (const auto& [part, array] : learned_) packed_[part] = array.View();
    return absl::OkStatus();
  }

  // Makes the numbers in state_ what Plain() writes of them.
  void RoundPlain() {
    for (const WeightParts& entry : source_.layout.map) {
      if (quantised_.count(entry.name) > 0) continue;
      const TensorView& stored = source_.tensors.at(entry.parts[0]).view;
      if (!BecomesBFloat16(entry.name, stored)) continue;
      RoundToBFloat16(state_->Get(entry.name).span<float>());
    }
  }

  // A part of a tensor that is not quantised. Gates that were tuned are F32.
  TensorToWrite Plain(const WeightParts& entry, size_t index) const {
    const std::string& part = entry.parts[index];
    const TensorView& stored = source_.tensors.at(part).view;
    if (!options_.retune || !IsOfGate(entry.name)) {
      return PlainTensor(entry.name, part, stored);
    }
    TensorView tuned = state_->Get(entry.name);
    tuned.data = tuned.as<float>() + index * stored.num_elements();
    tuned.shape = stored.shape;
    return AsItIs(part, tuned);
  }

  absl::Status Write() {
    std::vector<TensorToWrite> tensors;
    std::vector<std::string> ignored;
    QuantSchemes schemes = {{options_.format, {"Linear"}}};
    for (const WeightParts& entry : source_.layout.map) {
      for (size_t i = 0; i < entry.parts.size(); ++i) {
        const std::string& part = entry.parts[i];
        result_.num_source_bytes += source_.tensors.at(part).view.num_bytes();
        if (quantised_.count(entry.name) > 0) continue;
        tensors.push_back(Plain(entry, i));
        if (tensors.back().shape.size() >= 2) {
          ignored.push_back(ModuleOf(part));
        }
      }
      if (quantised_.count(entry.name) == 0) continue;
      for (const std::string& part : formats_.PartsOf(entry).names) {
        const StoredTensor& packed = packed_.at(part);
        const QuantFormat& format = packed.groups.format;
        if (format != options_.format) {
          AddTarget(format, ModuleOf(part), schemes);
        }
        for (TensorToWrite& tensor : GroupTensors(part, packed)) {
          tensors.push_back(std::move(tensor));
        }
      }
    }
    for (const TensorToWrite& tensor : tensors) {
      result_.num_bytes += NumElements(tensor.shape) * SizeOf(tensor.dtype);
    }

    ASSIGN_OR_RETURN(const std::string config,
                     ReadFile(absl::StrCat(folder_, "/", kConfigFile)));
    ASSIGN_OR_RETURN(const std::string quantised,
                     WithQuantizationConfig(config, schemes, ignored));
    ASSIGN_OR_RETURN(StagedDirectory staged, StagedDirectory::Create(out_));
    RETURN_IF_ERROR(staged.WriteFile(kConfigFile, quantised));
    for (const char* const name : kCompanions) {
      const absl::StatusOr<std::string> text =
          ReadFile(absl::StrCat(folder_, "/", name));
      if (absl::IsNotFound(text.status())) continue;
      RETURN_IF_ERROR(text.status());
      RETURN_IF_ERROR(staged.WriteFile(name, *text));
    }
    RETURN_IF_ERROR(WriteWeights(staged.path(), tensors, {}));
    return staged.Commit();
  }

  const std::string folder_, out_, work_;
  const std::vector<TokenBatch>& batches_;
  const QuantizeOptions& options_;
  StoredFormats formats_;
  ThreadPool pool_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<StateStore> state_;
  std::unique_ptr<LayerInputs> inputs_;  // Null without data.
  ModelSource source_;
  std::set<std::string> quantised_;
  std::vector<LayerEntries> layers_;
  OutputWeights output_weights_;  // Empty: all outputs count alike.
  std::string key_;               // Of MakeKey().
  std::vector<WeightFiles> files_;
  ArraysByName learned_;  // None, or of all parts.
  StoredTensors packed_;  // By part; their memory is of files_ or learned_.
  QuantizeResult result_;
};

}  // namespace

absl::StatusOr<QuantizeResult> QuantizeModel(
    const std::string& folder, const std::string& out,
    const std::vector<TokenBatch>& batches, const QuantizeOptions& options) {
  return ModelQuantizer(folder, out, batches, options).Run();
}

}  // namespace strata
