#include "tools/scorecard/serving_step.h"

#include <algorithm>
#include <cstdint>
#include <utility>

#include "absl/status/statusor.h"
#include "core/base/status_macros.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/model/config.pb.h"
#include "core/model/decoder.h"

namespace strata {

absl::StatusOr<Graph> ServingStep(const ModelConfig& config, int64_t tokens) {
  constexpr int64_t kSequences = 64, kBlockSize = 16;
  GraphBuilder builder;
  DecoderOptions options;
  options.mode = DecoderOptions::Mode::kGenerate;
  options.max_tokens = tokens;
  options.max_sequences = std::min(kSequences, tokens);
  options.max_logits = options.max_sequences;
  options.block_size = kBlockSize;
  options.cache_blocks = options.max_sequences *
                         ((config.max_seq_len() + kBlockSize - 1) / kBlockSize);
  const Decoder decoder = BuildDecoder(builder, config, options);
  ASSIGN_OR_RETURN(Graph graph, builder.Finish());
  for (const RouterValues& router : decoder.routers) {
    graph.SetOutput(router.OffsetName(), router.offset);
    graph.SetOutput(router.TokensName(), router.tokens);
  }
  return graph;
}

}  // namespace strata
