#include "serving/api/features.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "core/base/status_macros.h"
#include "nlohmann/json.hpp"
#include "serving/api/fields.h"

namespace strata {
namespace {

using Json = nlohmann::ordered_json;

constexpr absl::Duration kLook = absl::Milliseconds(50);
constexpr int64_t kMaxBatch = 128;

absl::Status EndOf(const EngineEvent& event) {
  switch (event.reason) {
    case FinishReason::kStop:
    case FinishReason::kLength:
      return absl::OkStatus();
    case FinishReason::kCancelled:
      return absl::CancelledError("the server is shutting down");
    case FinishReason::kTimedOut:
      return absl::DeadlineExceededError(
          "the request took longer than its timeout");
    case FinishReason::kFailed:
      return event.error;
  }
  return absl::OkStatus();
}

absl::Status CheckModel(const std::string& model, const ApiLimits& limits) {
  if (model == limits.model) return absl::OkStatus();
  return absl::NotFoundError(absl::StrCat(
      "model ", Shown(model), " is not here; this is ", Shown(limits.model)));
}

void Normalize(std::vector<float>& x) {
  double sum = 0;
  for (const float v : x) sum += static_cast<double>(v) * v;
  if (sum == 0) return;
  const auto scale = static_cast<float>(1 / std::sqrt(sum));
  for (float& v : x) v *= scale;
}

Json Tensor(const std::string& name, int64_t batch, int64_t width,
            const std::vector<Features>& features,
            std::vector<float> Features::*member) {
  Json data = Json::array();
  for (const Features& one : features) {
    for (const float x : one.*member) data.push_back(x);
  }
  return {{"name", name},
          {"datatype", "FP32"},
          {"shape", Json::array({batch, width})},
          {"data", std::move(data)}};
}

}  // namespace

absl::StatusOr<std::vector<std::vector<int32_t>>> ReadIdTensor(
    const Json& tensor, int64_t vocab_size) {
  if (!tensor.is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat("inputs has ", Shown(tensor), "; want one tensor, ids"));
  }
  Fields fields(tensor);
  const std::string name = fields.String("name", "");
  const std::string type = fields.String("datatype", "");
  const Json& shape = fields.Any("shape");
  const Json& data = fields.Any("data");
  fields.Ignore("parameters");
  RETURN_IF_ERROR(fields.Finish());
  if (name != "ids") {
    return absl::InvalidArgumentError(
        absl::StrCat("inputs has tensor ", Shown(name), "; want ids"));
  }
  if (type != "INT32" && type != "INT64") {
    return absl::InvalidArgumentError(absl::StrCat(
        "datatype of ids is ", Shown(type), "; want INT32 or INT64"));
  }
  std::vector<int64_t> dims;
  for (const Json& dim : shape) {
    if (dim.is_number_unsigned() && dim.get<uint64_t>() <= 1 << 24) {
      dims.push_back(dim.get<int64_t>());
    }
  }
  if (!shape.is_array() || dims.size() != shape.size() || dims.empty() ||
      dims.size() > 2) {
    return absl::InvalidArgumentError(absl::StrCat(
        "shape of ids is ", Shown(shape), "; want [n] or [batch, n]"));
  }
  if (dims.size() == 1) dims.insert(dims.begin(), 1);
  if (dims[0] < 1 || dims[0] > kMaxBatch) {
    return absl::InvalidArgumentError(absl::StrCat("shape of ids is ",
                                                   Shown(shape), "; want 1 to ",
                                                   kMaxBatch, " sequences"));
  }
  // Nested as the shape is, or flat.
  std::vector<int32_t> flat;
  const std::function<absl::Status(const Json&)> take =
      [&](const Json& value) -> absl::Status {
    if (value.is_array()) {
      for (const Json& one : value) RETURN_IF_ERROR(take(one));
      return absl::OkStatus();
    }
    if (!value.is_number_integer() || value.get<int64_t>() < 0 ||
        value.get<int64_t>() >= vocab_size) {
      return absl::InvalidArgumentError(absl::StrCat(
          "data of ids has ", Shown(value), "; want 0 to ", vocab_size - 1));
    }
    flat.push_back(value.get<int32_t>());
    return absl::OkStatus();
  };
  RETURN_IF_ERROR(take(data));
  if (static_cast<int64_t>(flat.size()) != dims[0] * dims[1]) {
    return absl::InvalidArgumentError(
        absl::StrCat("data of ids has ", flat.size(), " numbers; want ",
                     dims[0] * dims[1], " of its shape"));
  }
  std::vector<std::vector<int32_t>> rows;
  for (int64_t i = 0; i < dims[0]; ++i) {
    const auto begin = flat.begin() + i * dims[1];
    rows.emplace_back(begin, begin + dims[1]);
  }
  return rows;
}

absl::StatusOr<std::vector<Features>> RunFeatures(
    Engine& engine, const std::vector<std::vector<int32_t>>& prompts,
    absl::Time deadline, const std::function<bool()>& client_left) {
  std::vector<std::shared_ptr<Generation>> generations;
  const auto run = [&]() -> absl::StatusOr<std::vector<Features>> {
    for (const std::vector<int32_t>& prompt : prompts) {
      EngineRequest request;
      request.prompt = prompt;
      request.features = true;
      request.deadline = deadline;
      ASSIGN_OR_RETURN(std::shared_ptr<Generation> generation,
                       engine.Submit(std::move(request)));
      generations.push_back(std::move(generation));
    }
    std::vector<Features> all;
    for (const auto& generation : generations) {
      while (!generation->done()) {
        std::optional<EngineEvent> event =
            generation->Next(absl::Now() + kLook);
        if (!event.has_value()) {
          if (client_left()) return absl::CancelledError("the client has left");
          continue;
        }
        if (event->finished) {
          RETURN_IF_ERROR(EndOf(*event));
        } else {
          all.push_back({std::move(event->features), std::move(event->logits)});
        }
      }
    }
    return all;
  };
  auto result = run();
  if (!result.ok()) {
    for (const auto& generation : generations) generation->Cancel();
  }
  return result;
}

absl::StatusOr<Json> Embed(absl::string_view body, const TextCodec& codec,
                           Engine& engine, const ApiLimits& limits,
                           const std::function<bool()>& client_left,
                           Usage& usage) {
  ASSIGN_OR_RETURN(const Json json, ParseBody(body));
  Fields fields(json);
  const std::string model = fields.String("model", limits.model);
  const std::string format = fields.String("encoding_format", "float");
  const int64_t width = engine.config().d_model();
  const int64_t dimensions = fields.Int("dimensions", width, 1, 1 << 20);
  const Json& input = fields.Any("input");
  fields.Ignore("user");
  RETURN_IF_ERROR(fields.Finish());
  RETURN_IF_ERROR(CheckModel(model, limits));
  if (format != "float" && format != "base64") {
    return absl::InvalidArgumentError(absl::StrCat(
        "encoding_format is ", Shown(format), "; want float or base64"));
  }
  if (dimensions != width) {
    return absl::InvalidArgumentError(
        absl::StrCat("dimensions is ", dimensions, "; this model has ", width));
  }
  ApiRequest request;
  RETURN_IF_ERROR(ReadPrompts(input, "input", codec, limits, request));
  ASSIGN_OR_RETURN(std::vector<Features> features,
                   RunFeatures(engine, request.prompts,
                               absl::Now() + absl::Seconds(limits.max_seconds),
                               client_left));
  Json data = Json::array();
  for (size_t i = 0; i < features.size(); ++i) {
    std::vector<float>& x = features[i].hidden;
    Normalize(x);
    Json embedding = x;
    if (format == "base64") {
      embedding = absl::Base64Escape(absl::string_view(
          reinterpret_cast<const char*>(x.data()), x.size() * sizeof(float)));
    }
    data.push_back({{"object", "embedding"},
                    {"index", i},
                    {"embedding", std::move(embedding)}});
    usage.prompt_tokens += static_cast<int64_t>(request.prompts[i].size());
  }
  return Json{{"object", "list"},
              {"data", std::move(data)},
              {"model", limits.model},
              {"usage",
               {{"prompt_tokens", usage.prompt_tokens},
                {"total_tokens", usage.prompt_tokens}}}};
}

absl::StatusOr<Json> Infer(absl::string_view body, Engine& engine,
                           const ApiLimits& limits, const std::string& version,
                           const std::function<bool()>& client_left,
                           Usage& usage) {
  ASSIGN_OR_RETURN(const Json json, ParseBody(body));
  Fields fields(json);
  const Json& id = fields.Any("id");
  fields.Ignore("parameters");
  const Json& inputs = fields.Any("inputs");
  const Json& outputs = fields.Any("outputs");
  RETURN_IF_ERROR(fields.Finish());
  if (!inputs.is_array() || inputs.size() != 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        "inputs is ", Shown(inputs), "; want a list of one tensor, ids"));
  }
  std::vector<std::string> wanted = {"logits", "hidden"};
  if (!outputs.is_null()) {
    wanted.clear();
    for (const Json& output : outputs) {
      const std::string name = output.is_object() && output.contains("name") &&
                                       output["name"].is_string()
                                   ? output["name"].get<std::string>()
                                   : "";
      if (name != "logits" && name != "hidden") {
        return absl::InvalidArgumentError(absl::StrCat(
            "outputs has ", Shown(output), "; want logits or hidden"));
      }
      wanted.push_back(name);
    }
  }
  const ModelConfig& config = engine.config();
  ASSIGN_OR_RETURN(const std::vector<std::vector<int32_t>> rows,
                   ReadIdTensor(inputs[0], config.vocab_size()));
  ASSIGN_OR_RETURN(
      const std::vector<Features> features,
      RunFeatures(engine, rows, absl::Now() + absl::Seconds(limits.max_seconds),
                  client_left));
  const auto batch = static_cast<int64_t>(rows.size());
  Json tensors = Json::array();
  for (const std::string& name : wanted) {
    tensors.push_back(name == "logits"
                          ? Tensor(name, batch, config.vocab_size(), features,
                                   &Features::logits)
                          : Tensor(name, batch, config.d_model(), features,
                                   &Features::hidden));
  }
  for (const auto& row : rows) {
    usage.prompt_tokens += static_cast<int64_t>(row.size());
  }
  Json result = {{"model_name", limits.model},
                 {"model_version", version},
                 {"outputs", std::move(tensors)}};
  if (!id.is_null()) result["id"] = id;
  return result;
}

Json InferMetadata(const Engine& engine, const ApiLimits& limits,
                   const std::string& version) {
  const auto tensor = [](const char* name, const char* type, int64_t width) {
    return Json{{"name", name},
                {"datatype", type},
                {"shape", Json::array({-1, width})}};
  };
  return {{"name", limits.model},
          {"versions", Json::array({version})},
          {"platform", "strata"},
          {"inputs", Json::array({tensor("ids", "INT32", -1)})},
          {"outputs",
           Json::array({tensor("logits", "FP32", engine.config().vocab_size()),
                        tensor("hidden", "FP32", engine.config().d_model())})}};
}

}  // namespace strata
