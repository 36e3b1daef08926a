#include "core/trace/trace_example.h"

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <utility>
#include <vector>

#include "core/base/check.h"
#include "core/base/random.h"
#include "core/trace/routing_layout.h"
#include "core/trace/routing_record.h"
#include "core/trace/routing_trace.pb.h"

namespace strata {

RoutingTraceHeader ExampleHeader(const ExampleTrace& trace) {
  RoutingTraceHeader header;
  header.set_format_version(kRoutingTraceVersion);
  header.set_recorded_by(RoutingTraceHeader::TRAIN);
  header.set_model_name("example");
  header.set_num_ranks(trace.num_ranks);
  header.set_has_tokens(trace.has_tokens);
  header.add_domains("code");
  header.add_domains("prose");
  for (size_t layer = 0; layer < trace.experts.size(); ++layer) {
    for (size_t tier = 0; tier < trace.experts[layer].size(); ++tier) {
      RoutingGate& gate = *header.add_gates();
      gate.set_layer(layer + 1);
      gate.set_tier(tier);
      gate.set_num_experts(trace.experts[layer][tier]);
      gate.set_k_max(trace.k_max);
      gate.set_has_considered(trace.has_tokens &&
                              trace.experts[layer].size() > 1);
    }
  }
  return header;
}

std::vector<GateChoices> ExampleChoices::Spans(
    const RoutingLayout& layout) const {
  std::vector<GateChoices> gates;
  for (size_t g = 0; g < expert.size(); ++g) {
    gates.push_back(
        {static_cast<int64_t>(expert[g].size()) / layout.gates[g].k_max,
         expert[g], weight[g], considered[g]});
  }
  return gates;
}

ExampleChoices MakeChoices(const RoutingLayout& layout, int64_t num_tokens,
                           Random& random) {
  ExampleChoices choices;
  int64_t reached = 0;
  for (const GateLayout& gate : layout.gates) {
    if (gate.tier == 0) reached = num_tokens;
    const bool flat = gate.tier == 0 && gate.is_last_tier;
    std::vector<int32_t> expert(reached * gate.k_max, -1);
    std::vector<float> weight(reached * gate.k_max, 0);
    std::vector<uint8_t> considered(
        gate.has_considered ? reached * gate.num_experts : 0);
    for (uint8_t& survived : considered) survived = random.UniformInt(2);
    int64_t num_stay = 0;
    std::vector<int32_t> order(gate.num_experts);
    for (int64_t i = 0; i < reached; ++i) {
      if (!flat && random.UniformInt(4) == 0) continue;
      ++num_stay;
      std::iota(order.begin(), order.end(), 0);
      const auto k = 1 + static_cast<int64_t>(random.UniformInt(gate.k_max));
      for (int64_t j = 0; j < k; ++j) {
        std::swap(order[j], order[j + random.UniformInt(order.size() - j)]);
        expert[i * gate.k_max + j] = order[j];
        weight[i * gate.k_max + j] = static_cast<float>(random.Uniform());
      }
    }
    reached = num_stay;
    choices.expert.push_back(std::move(expert));
    choices.weight.push_back(std::move(weight));
    choices.considered.push_back(std::move(considered));
  }
  return choices;
}

RoutingRecord ExampleRecord(const RoutingLayout& layout, int64_t step,
                            int64_t num_tokens, Random& random) {
  RoutingRecord record;
  record.set_step(step);
  record.add_sequence_tokens(num_tokens);
  record.add_sequence_domain(step % 2);
  const ExampleChoices choices = MakeChoices(layout, num_tokens, random);
  CHECK(EncodeChoices(layout, choices.Spans(layout), record).ok());
  return record;
}

}  // namespace strata
