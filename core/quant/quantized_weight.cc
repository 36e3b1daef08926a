#include "core/quant/quantized_weight.h"

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"

namespace strata {

nlohmann::json ToJson(const QuantizedWeight& w) {
  return {{"name", w.name},
          {"bits", w.format.bits},
          {"group", w.format.group},
          {"symmetric", w.format.symmetric},
          {"num_weights", w.num_weights},
          {"bits_per_weight", w.bits_per_weight},
          {"error",
           {w.error.weight, w.error.weight_error, w.error.output,
            w.error.output_error}},
          {"experts", {w.num_experts, w.fewest_inputs, w.num_blended}},
          {"num_of_bits", w.num_of_bits}};
}

QuantizedWeight QuantizedWeightFromJson(const nlohmann::json& json) {
  QuantizedWeight w;
  w.name = json.at("name").get<std::string>();
  w.format = {json.at("bits").get<int>(), json.at("group").get<int64_t>(),
              json.at("symmetric").get<bool>()};
  w.num_weights = json.at("num_weights").get<int64_t>();
  w.bits_per_weight = json.at("bits_per_weight").get<double>();
  const auto e = json.at("error").get<std::vector<double>>();
  w.error = {e.at(0), e.at(1), e.at(2), e.at(3)};
  const auto n = json.at("experts").get<std::vector<int64_t>>();
  w.num_experts = n.at(0);
  w.fewest_inputs = n.at(1);
  w.num_blended = n.at(2);
  w.num_of_bits = json.at("num_of_bits").get<std::map<int, int64_t>>();
  return w;
}

}  // namespace strata
