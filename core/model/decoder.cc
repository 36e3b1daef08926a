#include "core/model/decoder.h"

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/model/attention.h"
#include "core/model/config.pb.h"
#include "core/model/moe.h"
#include "core/ops/activation.h"
#include "core/ops/dispatch.h"
#include "core/ops/elementwise.h"
#include "core/ops/embedding.h"
#include "core/ops/loss.h"
#include "core/ops/matmul.h"
#include "core/ops/norm.h"

namespace strata {
namespace {

// The sum of the gates' own losses, each averaged over gates so that their
// weights mean the same for models of any depth.
ValueId RouterLoss(GraphBuilder& b, const std::vector<RouterValues>& routers) {
  ValueId sum = kNone;
  for (const RouterValues& router : routers) {
    for (const GateLoss& term : router.losses) {
      const ValueId scaled = Scale(
          b, term.loss, term.weight / static_cast<double>(routers.size()));
      sum = sum == kNone ? scaled : Add(b, sum, scaled);
    }
  }
  return sum;
}

void OutputRouters(GraphBuilder& b, const std::vector<RouterValues>& routers) {
  for (const RouterValues& router : routers) {
    b.Output(router.OffsetName(), router.offset);
    b.Output(router.TokensName(), router.tokens);
    b.Output(router.ExpertName(), router.expert);
  }
}

}  // namespace

Decoder BuildDecoder(GraphBuilder& b, const ModelConfig& config,
                     const DecoderOptions& options) {
  const bool generate = options.mode == DecoderOptions::Mode::kGenerate;
  const int64_t d = config.d_model();

  const ValueId num_tokens = b.Input("num_tokens", DType::kI32, {});
  const Dim t = Ragged(options.max_tokens, num_tokens);
  const ValueId ids = b.Input("ids", DType::kI32, {t});
  AttentionInputs inputs;
  inputs.position = b.Input("position", DType::kI32, {t});
  if (generate) {
    inputs.cache_slots = options.max_sequences * config.max_seq_len();
    inputs.cache_row = b.Input("cache_row", DType::kI32, {t});
    inputs.first_row = b.Input("first_row", DType::kI32, {t});
  } else {
    inputs.seq_start =
        b.Input("seq_start", DType::kI32, {Static(options.max_sequences + 1)});
  }

  const ValueId table = b.Parameter("model.embed_tokens.weight",
                                    {Static(config.vocab_size()), Static(d)});
  ValueId h;
  {
    GraphBuilder::Scope scope(b, "embedding");
    h = Embedding(b, table, ids);
  }

  Decoder decoder;
  const bool train = options.mode == DecoderOptions::Mode::kTrain;
  const ValueId tau = train && config.moe().hierarchical().tau_start() > 0
                          ? b.Input("tau", b.compute(), {})
                          : kNone;
  for (int64_t layer = 0; layer < config.num_layers(); ++layer) {
    GraphBuilder::Scope scope(b, absl::StrCat("model.layers.", layer));
    h = Add(b, h, AttentionBlock(b, config, inputs, layer, h));
    if (layer < config.num_dense_layers()) {
      h = Add(b, h, DenseBlock(b, config, config.dense_width(), h));
    } else {
      MoeOptions moe;
      moe.layer = layer;
      moe.num_tokens = num_tokens;
      moe.gate.train = train;
      moe.gate.tau = tau;
      moe.gate.seq_start = inputs.seq_start;
      moe.gate.source = options.route;
      h = MoeBlock(b, config, moe, h, decoder.routers);
    }
  }

  const ValueId gain = b.Parameter("model.norm.weight", {Static(d)});
  GraphBuilder::Scope scope(b, "output");
  if (generate) {
    const ValueId num_logits = b.Input("num_logits", DType::kI32, {});
    const ValueId logit_row = b.Input("logit_row", DType::kI32,
                                      {Ragged(options.max_logits, num_logits)});
    h = GatherRows(b, h, logit_row);
  }
  h = RmsNorm(b, h, gain, config.norm_eps());
  const ValueId head =
      config.tie_embeddings()
          ? table
          : b.Parameter("lm_head.weight",
                        {Static(config.vocab_size()), Static(d)});
  const ValueId logits = Linear(b, h, head);
  if (generate) {
    b.Output("logits", logits);
    return decoder;
  }

  const ValueId target = b.Input("target", DType::kI32, {t});
  const CrossEntropyResult ce = CrossEntropy(b, logits, target);
  decoder.loss = ce.loss;
  decoder.total_loss = ce.loss;
  const ValueId router_loss = RouterLoss(b, decoder.routers);
  if (router_loss != kNone) {
    decoder.total_loss = Add(b, ce.loss, router_loss);
  }
  b.Output("loss", decoder.loss);
  b.Output("total_loss", decoder.total_loss);
  b.Output("nll", ce.nll);
  b.Output("hit", ce.hit);
  OutputRouters(b, decoder.routers);
  return decoder;
}

}  // namespace strata
