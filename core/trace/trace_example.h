// Routing traces that tests make up: random choices that a model could make.

#ifndef CORE_TRACE_TRACE_EXAMPLE_H_
#define CORE_TRACE_TRACE_EXAMPLE_H_

#include <cstdint>
#include <vector>

#include "core/base/random.h"
#include "core/trace/routing_layout.h"
#include "core/trace/routing_record.h"
#include "core/trace/routing_trace.pb.h"

namespace strata {

struct ExampleTrace {
  // Experts of each layer's tiers; layers are numbered from 1.
  std::vector<std::vector<int>> experts = {{4, 300}, {9}};
  int k_max = 3;
  int num_ranks = 2;
  bool has_tokens = true;
};

RoutingTraceHeader ExampleHeader(const ExampleTrace& trace);

// What the gates of one run chose.
struct ExampleChoices {
  std::vector<std::vector<int32_t>> expert;      // [gates][tokens, k_max]
  std::vector<std::vector<float>> weight;        // Likewise.
  std::vector<std::vector<uint8_t>> considered;  // [gates][tokens, experts]

  std::vector<GateChoices> Spans(const RoutingLayout& layout) const;
};

// A quarter of the tokens leaves at each tier of a layer with several.
ExampleChoices MakeChoices(const RoutingLayout& layout, int64_t num_tokens,
                           Random& random);

RoutingRecord ExampleRecord(const RoutingLayout& layout, int64_t step,
                            int64_t num_tokens, Random& random);

}  // namespace strata

#endif  // CORE_TRACE_TRACE_EXAMPLE_H_
