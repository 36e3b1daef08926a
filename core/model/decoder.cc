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
#include "core/model/count.h"
#include "core/model/gate.h"
#include "core/model/moe.h"
#include "core/model/rope_scaling.h"
#include "core/ops/activation.h"
#include "core/ops/dispatch.h"
#include "core/ops/elementwise.h"
#include "core/ops/embedding.h"
#include "core/ops/loss.h"
#include "core/ops/matmul.h"
#include "core/ops/norm.h"

namespace strata {
namespace {

using Mode = DecoderOptions::Mode;

// The sum of the gates' own losses, each averaged over gates so that their
// weights mean the same for models of any depth. Those of one weight are added
// up before they are weighed: a product for each would be two more operators,
// with its gradient, for each loss of each gate.
ValueId RouterLoss(GraphBuilder& b, const std::vector<RouterValues>& routers) {
  std::vector<GateLoss> sums;  // By weight, in the order of their first.
  for (const RouterValues& router : routers) {
    for (const GateLoss& term : router.losses) {
      auto of_weight = sums.begin();
      while (of_weight != sums.end() && of_weight->weight != term.weight) {
        ++of_weight;
      }
      if (of_weight == sums.end()) {
        sums.push_back(term);
      } else {
        of_weight->loss = Add(b, of_weight->loss, term.loss);
      }
    }
  }
  ValueId sum = kNone;
  for (const GateLoss& term : sums) {
    const ValueId scaled =
        Scale(b, term.loss, term.weight / static_cast<double>(routers.size()));
    sum = sum == kNone ? scaled : Add(b, sum, scaled);
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

// What all parts of the model share.
class Emitter {
 public:
  Emitter(GraphBuilder& b, const ModelConfig& config,
          const DecoderOptions& options)
      : b_(b),
        config_(config),
        options_(options),
        d_(config.d_model()),
        cached_(options.mode == Mode::kGenerate ||
                options.mode == Mode::kDraft),
        num_tokens_(b.Input("num_tokens", DType::kI32, {})),
        t_(Ragged(options.max_tokens, num_tokens_)) {}

  Decoder Build() {
    const ValueId ids = b_.Input("ids", DType::kI32, {t_});
    AddInputs();
    table_ = b_.Parameter("model.embed_tokens.weight",
                          {Static(config_.vocab_size()), Static(d_)});
    const ValueId embedded = Embed(ids);
    Decoder decoder;
    if (options_.mode == Mode::kDraft) {
      const ValueId hidden = b_.Input("hidden", b_.compute(), {t_, Static(d_)});
      OutputLogits(PredictionLayer(hidden, embedded, routers_of_module_));
      return decoder;
    }
    ValueId h = embedded;
    for (int64_t layer = 0; layer < config_.num_layers(); ++layer) {
      h = Layer(layer, h, decoder.routers);
    }
    const ValueId hidden = Norm("model.norm.weight", h);
    if (options_.mode == Mode::kLogits || cached_) {
      if (cached_ && config_.mtp().num_layers() > 0) {
        b_.Output("hidden", hidden);
      }
      OutputLogits(hidden);
      return decoder;
    }
    AddLosses(hidden, decoder);
    return decoder;
  }

 private:
  void AddInputs() {
    if (options_.mode == Mode::kTrain &&
        config_.moe().hierarchical().tau_start() > 0) {
      tau_ = b_.Input("tau", b_.compute(), {});
    }
    inputs_.position = b_.Input("position", DType::kI32, {t_});
    if (!cached_) {
      inputs_.seq_start = b_.Input("seq_start", DType::kI32,
                                   {Static(options_.max_sequences + 1)});
      return;
    }
    if (HasDynamicRope(config_)) {
      inputs_.seq_len = b_.Input("seq_len", DType::kI32, {t_});
    }
    inputs_.cache_row = b_.Input("cache_row", DType::kI32, {t_});
    inputs_.expand_latents = options_.expand_latents;
    if (options_.cache_blocks == 0) {
      inputs_.cache_slots = options_.max_sequences * config_.max_seq_len();
      inputs_.first_row = b_.Input("first_row", DType::kI32, {t_});
      return;
    }
    const int64_t size = options_.block_size;
    inputs_.cache_slots = options_.cache_blocks * size;
    inputs_.pages.block_size = size;
    inputs_.pages.block_table =
        b_.Input("block_table", DType::kI32,
                 {Static(options_.max_sequences),
                  Static((config_.max_seq_len() + size - 1) / size)});
    inputs_.pages.sequence = b_.Input("sequence", DType::kI32, {t_});
  }

  ValueId Embed(ValueId ids) {
    GraphBuilder::Scope scope(b_, "embedding");
    return Embedding(b_, table_, ids);
  }

  ValueId Norm(const std::string& name, ValueId x) {
    return RmsNorm(b_, x, b_.Parameter(name, {Static(d_)}), config_.norm_eps());
  }

  ValueId Layer(int64_t layer, ValueId h, std::vector<RouterValues>& routers) {
    GraphBuilder::Scope scope(b_, absl::StrCat("model.layers.", layer));
    h = Add(b_, h, AttentionBlock(b_, config_, inputs_, layer, h));
    const bool dense = layer < config_.num_layers()
                           ? IsDenseLayer(config_, layer)
                           : NumDenseLayers(config_) == config_.num_layers();
    if (dense) {
      return Add(b_, h, DenseBlock(b_, config_, config_.dense_width(), h));
    }
    MoeOptions moe;
    moe.layer = layer;
    moe.num_tokens = num_tokens_;
    moe.gate.train = options_.mode == Mode::kTrain;
    moe.gate.fused = options_.fused;
    moe.gate.tau = tau_;
    moe.gate.seq_start = inputs_.seq_start;
    // A trace has no choices of the prediction module.
    const bool replays = options_.route == RouteSource::kReplay;
    moe.gate.source = replays && layer >= config_.num_layers()
                          ? RouteSource::kGate
                          : options_.route;
    return MoeBlock(b_, config_, moe, h, routers);
  }

  // The module: from what the model made of token i (`hidden`, after its last
  // norm) and the embedding of token i + 1, what token i + 2 is predicted from.
  ValueId PredictionLayer(ValueId hidden, ValueId next,
                          std::vector<RouterValues>& routers) {
    const int64_t layer = config_.num_layers();
    const std::string prefix = absl::StrCat("model.layers.", layer, ".");
    // The embedding comes first, as in the public checkpoints.
    const ValueId both = Add(
        b_, PlaceColumns(b_, Norm(prefix + "enorm.weight", next), 0, 2 * d_),
        PlaceColumns(b_, Norm(prefix + "hnorm.weight", hidden), d_, 2 * d_));
    const ValueId x = Linear(
        b_, both,
        b_.Parameter(prefix + "eh_proj.weight", {Static(d_), Static(2 * d_)}));
    return Norm(prefix + "shared_head.norm.weight", Layer(layer, x, routers));
  }

  // By the projection that model and module share.
  ValueId Logits(ValueId hidden) {
    if (head_ == kNone) {
      head_ = config_.tie_embeddings()
                  ? table_
                  : b_.Parameter("lm_head.weight",
                                 {Static(config_.vocab_size()), Static(d_)});
    }
    return Linear(b_, hidden, head_);
  }

  void OutputLogits(ValueId hidden) {
    GraphBuilder::Scope scope(b_, "output");
    const ValueId num_logits = b_.Input("num_logits", DType::kI32, {});
    const ValueId logit_row = b_.Input(
        "logit_row", DType::kI32, {Ragged(options_.max_logits, num_logits)});
    b_.Output("logits", Logits(GatherRows(b_, hidden, logit_row)));
  }

  void AddLosses(ValueId hidden, Decoder& decoder) {
    GraphBuilder::Scope scope(b_, "output");
    const ValueId target = b_.Input("target", DType::kI32, {t_});
    const CrossEntropyResult ce = CrossEntropy(b_, Logits(hidden), target);
    decoder.loss = decoder.total_loss = ce.loss;
    std::vector<RouterValues> all = decoder.routers;
    if (config_.mtp().num_layers() > 0) {
      const NextTargetResult next = NextTarget(b_, target, inputs_.seq_start);
      b_.set_scope("");
      const ValueId predicted =
          Logits(PredictionLayer(hidden, Embed(next.ids), routers_of_module_));
      const ValueId loss = CrossEntropy(b_, predicted, next.next).loss;
      b_.Output("mtp_loss", loss);
      decoder.total_loss =
          Add(b_, ce.loss, Scale(b_, loss, config_.mtp().loss_weight()));
      all.insert(all.end(), routers_of_module_.begin(),
                 routers_of_module_.end());
      decoder.module_routers = routers_of_module_;
    }
    const ValueId router_loss = RouterLoss(b_, all);
    if (router_loss != kNone) {
      decoder.total_loss = Add(b_, decoder.total_loss, router_loss);
    }
    b_.Output("loss", decoder.loss);
    b_.Output("total_loss", decoder.total_loss);
    b_.Output("nll", ce.nll);
    b_.Output("hit", ce.hit);
    OutputRouters(b_, decoder.routers);
  }

  GraphBuilder& b_;
  const ModelConfig& config_;
  const DecoderOptions& options_;
  const int64_t d_;
  const bool cached_;
  const ValueId num_tokens_;
  const Dim t_;
  AttentionInputs inputs_;
  ValueId tau_ = kNone;  // Of this step, where it changes from step to step.
  ValueId table_ = kNone;
  ValueId head_ = kNone;
  std::vector<RouterValues> routers_of_module_;
};

}  // namespace

Decoder BuildDecoder(GraphBuilder& b, const ModelConfig& config,
                     const DecoderOptions& options) {
  return Emitter(b, config, options).Build();
}

}  // namespace strata
