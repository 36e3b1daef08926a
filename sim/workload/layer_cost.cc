#include "sim/workload/layer_cost.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/base/status_macros.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "sim/workload/activations.h"
#include "sim/workload/comm_times.h"
#include "sim/workload/expert_loads.h"
#include "sim/workload/gate_rows.h"
#include "sim/workload/kernel_times.h"
#include "sim/workload/layout.h"
#include "sim/workload/model_graph.h"
#include "sim/workload/rank_sizes.h"
#include "sim/workload/separate_kernels.h"

namespace strata::sim {
namespace {

constexpr double kBf16Bytes = 2;
// The graph is built in F32; what runs is BF16.
constexpr double kShareOfF32 = kBf16Bytes / 4;

// Of an element: BF16 read, FP8 written twice.
constexpr double kCastBytes = 4;

// Of gates' nodes those that run where tokens are, not where experts are.
bool RunsAtHome(const Node& node) {
  return node.op->name == "DispatchRows" || node.op->name == "CombineRows" ||
         node.op->name == "RowDot";
}

class Costing {
 public:
  explicit Costing(const CostInputs& in)
      : model_(*in.model),
        layout_(*in.layout),
        kernels_(*in.kernels),
        network_(*in.network),
        loads_(*in.loads),
        constants_(in.constants),
        tokens_(static_cast<double>(layout_.TokensPerRank())),
        tp_(static_cast<double>(layout_.tensor)),
        etp_(static_cast<double>(layout_.expert_tensor)) {}

  absl::StatusOr<ModelCost> Run() {
    result_.layers.resize(model_.config().num_layers());
    SpreadRows();
    RETURN_IF_ERROR(Nodes());
    KeepActivations();
    for (int l = 0; l < model_.config().num_layers(); ++l) {
      RETURN_IF_ERROR(Communicate(l));
    }
    RETURN_IF_ERROR(CommunicateOutput());
    for (double& error : result_.error) {
      const size_t f = &error - result_.error.data();
      if (family_seconds_[f] > 0) error /= family_seconds_[f];
    }
    return std::move(result_);
  }

 private:
  // Tokens that one rank hands to its experts' gates: TP's ranks share them.
  double LocalTokens() const { return tokens_ / tp_; }

  void SpreadRows() {
    const double group = static_cast<double>(layout_.ExpertGroup());
    double imbalance = 0;
    for (size_t g = 0; g < model_.gates().size(); ++g) {
      const Gate& gate = model_.gates()[g];
      const double per_token = loads_.rows_per_token.empty()
                                   ? gate.rows_per_token
                                   : loads_.rows_per_token[g];
      const double rows = group * LocalTokens() * per_token;
      GateRows of = SpreadOver(
          RowsOfRanks(loads_, gate, static_cast<int>(g), layout_.expert, rows));
      imbalance += of.mean > 0 ? of.sum / of.mean : 1;
      gate_rows_.push_back(std::move(of));
    }
    if (!gate_rows_.empty()) {
      result_.expert_max_over_mean = imbalance / gate_rows_.size();
    }
    std::vector<double> busiest, home;
    for (const GateRows& of : gate_rows_) {
      busiest.push_back(of.sum);
      home.push_back(of.mean);
    }
    sizes_.emplace(model_, layout_, std::move(busiest));
    home_sizes_.emplace(model_, layout_, std::move(home));
  }

  LayerCost& At(int layer) {
    if (layer == kEmbedding) return result_.embedding;
    if (layer == kOutput) return result_.output;
    return result_.layers[layer];
  }

  double ExtentOf(ValueId value, int dim, bool experts) const {
    return sizes_->Extent(value, dim, experts);
  }

  Kernel Product(const Node& node, int layer) const {
    const bool lhs = node.attrs.Int("transpose_lhs") != 0;
    const bool rhs = node.attrs.Int("transpose_rhs") != 0;
    Kernel kernel;
    kernel.kind = Kernel::Kind::kMatMul;
    kernel.family = Family::kMatMul;
    kernel.fp8 = layout_.fp8 && layer >= 0;  // The output stays in BF16.
    kernel.m = ExtentOf(node.inputs[0], lhs ? 1 : 0, false);
    kernel.k = ExtentOf(node.inputs[0], lhs ? 0 : 1, false);
    kernel.n = ExtentOf(node.inputs[1], rhs ? 0 : 1, false);
    return kernel;
  }

  Kernel Grouped(const Node& node, int gate) const {
    Kernel kernel;
    const bool weight_grad = node.op->name == "GroupedWeightGrad";
    kernel.kind = weight_grad ? Kernel::Kind::kGroupedWeightGrad
                              : Kernel::Kind::kGroupedMatMul;
    kernel.family = Family::kExperts;
    kernel.fp8 = layout_.fp8;
    kernel.expert_rows = gate_rows_[gate].busiest;
    kernel.m = gate_rows_[gate].sum;
    kernel.k = ExtentOf(node.inputs[0], 1, true);
    kernel.n = weight_grad ? ExtentOf(node.inputs[1], 1, true)
                           : ExtentOf(node.outputs[0], 1, true);
    return kernel;
  }

  Kernel Attend(bool backward) const {
    const AttentionConfig& a = model_.config().attention();
    Kernel kernel;
    kernel.family = Family::kAttention;
    kernel.backward = backward;
    kernel.batch = layout_.micro_batch;
    kernel.sequence = layout_.sequence;
    kernel.heads = a.num_heads() / layout_.tensor;
    if (a.has_latent()) {
      const LatentAttentionConfig& l = a.latent();
      kernel.kind = Kernel::Kind::kLatentAttention;
      kernel.kv_heads = kernel.heads;
      kernel.head_dim = l.nope_dim() + l.rope_dim();
      kernel.value_dim = l.value_dim();
      kernel.rope_dim = l.rope_dim();
      kernel.latent_dim = l.kv_rank();
    } else {
      kernel.kind = Kernel::Kind::kAttention;
      kernel.kv_heads = std::max<int64_t>(1, a.num_kv_heads() / layout_.tensor);
      kernel.head_dim = a.head_dim();
      kernel.value_dim = a.head_dim();
    }
    return kernel;
  }

  // What moves bytes: operands once, cut as they are.
  Kernel Move(const Node& node, bool experts) const {
    const Graph& graph = model_.graph();
    Kernel kernel;
    const Cost cost = CostOf(
        graph, node, (RunsAtHome(node) ? home_sizes_ : sizes_)->Counts());
    bool cut = false;
    for (const auto& values :
         {node.inputs,
          decltype(node.inputs)(node.outputs.begin(), node.outputs.end())}) {
      for (const ValueId id : values) {
        if (id != kNone && graph.value(id).role != Role::kParameter &&
            model_.IsCut(id, 1)) {
          cut = true;
        }
      }
    }
    double parts = 1;
    if (experts) {
      parts = cut ? etp_ : 1;
    } else if (cut || layout_.sequence_parallel) {
      parts = tp_;
    }
    kernel.bytes = (cost.bytes_read + cost.bytes_written) * kShareOfF32 / parts;
    if (layout_.unfused_loss &&
        absl::StartsWith(node.op->name, "CrossEntropy")) {
      kernel.bytes = tokens_ *
                     static_cast<double>(model_.config().vocab_size()) / tp_ *
                     (node.phase == Phase::kForward ? kUnfusedLossForward
                                                    : kUnfusedLossBackward);
    }
    return kernel;
  }

  absl::Status Add(const Node& node, int layer, const Kernel& kernel,
                   double times) {
    const std::string key = absl::StrCat(
        static_cast<int>(kernel.kind), ",", kernel.m, ",", kernel.n, ",",
        kernel.k, ",", kernel.bytes, ",", kernel.backward, ",", kernel.fp8, ",",
        kernel.expert_rows.empty()
            ? -1
            : model_.place(&node - model_.graph().nodes().data()).gate);
    auto it = known_.find(key);
    if (it == known_.end()) {
      ASSIGN_OR_RETURN(const KernelTime time, kernels_.Of(kernel));
      it = known_.emplace(key, time).first;
    }
    const KernelTime& time = it->second;
    const double seconds = time.seconds * times;
    // What goes with a product was launched with it.
    const double launched = &node == last_node_ ? 0 : 1;
    last_node_ = &node;
    const auto family = static_cast<size_t>(kernel.family);
    LayerCost& cost = At(layer);
    PhaseCost& phase = node.phase == Phase::kForward     ? cost.forward
                       : node.phase == Phase::kInputGrad ? cost.input_grad
                                                         : cost.weight_grad;
    phase.seconds[family] += seconds;
    phase.flops += kernel.Flops() * times;
    phase.nodes += launched;
    if (IsRecomputed(model_, layout_, node)) {
      cost.recompute.seconds[family] += seconds;
      cost.recompute.flops += kernel.Flops() * times;
      cost.recompute.nodes += launched;
    }
    result_.error[family] += time.error * seconds;
    family_seconds_[family] += seconds;
    result_.seconds += seconds;
    if (!time.inside_range) {
      result_.seconds_outside_range += seconds;
      if (seconds > widest_) {
        widest_ = seconds;
        result_.widest_outside =
            absl::StrCat(node.op->name, " of ", node.scope, " (m ", kernel.m,
                         ", n ", kernel.n, ", k ", kernel.k, ")");
      }
    }
    return absl::OkStatus();
  }

  // FP8 operands are made once, as they are and transposed, from BF16: by the
  // norm or activation that makes them, or by a kernel of its own.
  absl::Status AddCast(const Node& node, int layer, const Kernel& product) {
    if (!product.fp8 || node.phase == Phase::kWeightGrad) {
      return absl::OkStatus();
    }
    const Value& operand = model_.graph().value(node.inputs[0]);
    if (operand.producer != kNone) {
      const absl::string_view maker =
          model_.graph().node(operand.producer).op->name;
      if (maker == "RmsNorm" || absl::StartsWith(maker, "SwiGlu")) {
        return absl::OkStatus();
      }
    }
    Kernel cast;
    cast.bytes = kCastBytes * product.m * product.k;
    return Add(node, layer, cast, 1);
  }

  // A weight's gradient is added to the sum of the micro-batches before.
  absl::Status AddAccumulation(const Node& node, int layer,
                               const Kernel& product) {
    if (node.phase != Phase::kWeightGrad) return absl::OkStatus();
    Kernel sum;
    const double weights =
        product.kind == Kernel::Kind::kGroupedWeightGrad
            ? product.n * product.k *
                  static_cast<double>(product.expert_rows.size())
            : product.m * product.n;
    sum.bytes =
        weights * (2 * (layout_.bf16_gradients ? kBf16Bytes : 4) - kBf16Bytes);
    return Add(node, layer, sum, 1);
  }

  // The bias of an expert's rows, and its gradient.
  absl::Status AddBias(const Node& node, int layer, const Kernel& product) {
    if (!layout_.expert_bias || node.phase == Phase::kWeightGrad ||
        product.kind != Kernel::Kind::kGroupedMatMul) {
      return absl::OkStatus();
    }
    const bool forward = node.phase == Phase::kForward;
    const bool down = absl::StrContains(
        model_.graph().value(node.inputs[1]).name, "down_proj");
    Kernel bias;
    bias.bytes = product.m * (forward ? product.n : product.k) *
                 (forward ? (down ? kBiasDownForward : kBiasUpForward)
                          : (down ? kBiasDownBackward : kBiasUpBackward));
    (forward ? At(layer).forward : At(layer).input_grad).pieces +=
        static_cast<double>(product.expert_rows.size());
    return Add(node, layer, bias, 1);
  }

  absl::Status AddProduct(const Node& node, int layer, const Kernel& product) {
    RETURN_IF_ERROR(Add(node, layer, product, 1));
    RETURN_IF_ERROR(AddCast(node, layer, product));
    RETURN_IF_ERROR(AddBias(node, layer, product));
    return AddAccumulation(node, layer, product);
  }

  bool IsFree(const Node& node) const {
    if (node.phase == Phase::kInputGrad && node.op->name == "Add") return true;
    for (const ValueId id : node.outputs) {
      if (!model_.graph().value(id).type.dims.empty()) return false;
    }
    return !node.outputs.empty() || node.op->name == "SignBias";
  }

  absl::Status Nodes() {
    const Graph& graph = model_.graph();
    // Products that are one: summed, and costed at the first's place.
    // Ordered, so that sums are the same in every run.
    std::map<std::pair<int, int>, Kernel> fused;
    std::map<std::pair<int, int>, const Node*> first;
    for (size_t i = 0; i < graph.nodes().size(); ++i) {
      const Node& node = graph.node(i);
      const NodePlace& place = model_.place(i);
      if (node.phase == Phase::kUpdate || IsFree(node)) continue;
      const absl::string_view op = node.op->name;
      if (op == "MatMul") {
        const Kernel kernel = Product(node, place.layer);
        if (place.fused < 0) {
          RETURN_IF_ERROR(AddProduct(node, place.layer, kernel));
          continue;
        }
        const std::pair<int, int> key = {place.fused,
                                         static_cast<int>(node.phase)};
        auto [it, inserted] = fused.emplace(key, kernel);
        if (inserted) {
          first[key] = &node;
        } else if (node.phase == Phase::kForward) {
          it->second.n += kernel.n;
        } else if (node.phase == Phase::kInputGrad) {
          it->second.k += kernel.k;
        } else {
          it->second.m += kernel.m;
        }
      } else if (op == "GroupedMatMul" || op == "GroupedWeightGrad") {
        RETURN_IF_ERROR(
            AddProduct(node, place.layer, Grouped(node, place.gate)));
      } else if (op == "Attention" || op == "AttentionGrad") {
        RETURN_IF_ERROR(Add(node, place.layer, Attend(op == "AttentionGrad"),
                            1.0 / layout_.context));
      } else {
        RETURN_IF_ERROR(Add(node, place.layer, Move(node, place.gate >= 0), 1));
      }
    }
    for (const auto& [key, kernel] : fused) {
      const Node& node = *first[key];
      RETURN_IF_ERROR(AddProduct(
          node, model_.place(&node - graph.nodes().data()).layer, kernel));
    }
    return absl::OkStatus();
  }

  void KeepActivations() {
    const Activations kept = ActivationsOf(model_, layout_, *sizes_);
    const auto keep = [](const KeptBytes& bytes, LayerCost& cost) {
      cost.activation_bytes = bytes.kept;
      cost.made_again_bytes = bytes.made_again;
    };
    keep(kept.embedding, result_.embedding);
    keep(kept.output, result_.output);
    for (size_t l = 0; l < kept.layers.size(); ++l) {
      keep(kept.layers[l], result_.layers[l]);
    }
  }

  absl::StatusOr<double> Seconds(CommKind kind, double bytes, int stride,
                                 int64_t count, double* sent = nullptr) const {
    if (count < 2 || bytes <= 0) return 0.0;
    ASSIGN_OR_RETURN(
        const CommTime time,
        network_.Of({kind, bytes, 0, stride, static_cast<int>(count)}));
    if (sent != nullptr) *sent += time.bytes_sent;
    return time.seconds;
  }

  // A block that TP cuts: its input gathered, its output added up. With
  // sequence parallelism an all-gather and a reduce-scatter, otherwise one
  // all-reduce; backwards the same, and with it the input once more for the
  // weight gradients. What is gathered for FP8 products goes as FP8.
  absl::Status TensorBlocks(double blocks, bool fp8, LayerCost& cost) {
    if (layout_.tensor < 2 || blocks == 0) return absl::OkStatus();
    const double bytes = tokens_ * model_.config().d_model() * kBf16Bytes;
    const int64_t tp = layout_.tensor;
    CommCost& forward = cost.forward_comm;
    CommCost& backward = cost.backward_comm;
    if (!layout_.sequence_parallel) {
      ASSIGN_OR_RETURN(
          const double reduce,
          Seconds(CommKind::kAllReduce, bytes, 1, tp, &forward.bytes_tensor));
      forward.tensor += blocks * reduce;
      backward.tensor += blocks * reduce;
    } else {
      ASSIGN_OR_RETURN(const double gather,
                       Seconds(CommKind::kAllGather, fp8 ? bytes / 2 : bytes, 1,
                               tp, &forward.bytes_tensor));
      ASSIGN_OR_RETURN(const double scatter,
                       Seconds(CommKind::kReduceScatter, bytes, 1, tp,
                               &forward.bytes_tensor));
      forward.tensor += blocks * (gather + scatter);
      backward.tensor += blocks * (2 * gather + scatter);
    }
    if (layout_.RecomputesLayers()) {
      backward.tensor += forward.tensor;
    }
    return absl::OkStatus();
  }

  // What an all-to-all brings comes rank by rank: a rank with several experts
  // sorts it by expert, and back, forward and backward. DeepEP's kernels do so.
  absl::Status AddSorting(const Gate& gate, const GateRows& rows,
                          LayerCost& cost) {
    if (layout_.deep_ep || layout_.expert < 2 || ExchangesByKernels() ||
        gate.num_experts <= layout_.expert) {
      return absl::OkStatus();
    }
    Kernel sort;  // Reads and writes each row.
    sort.bytes = 2 * kBf16Bytes * rows.sum *
                 static_cast<double>(model_.config().d_model());
    ASSIGN_OR_RETURN(const KernelTime time, kernels_.Of(sort));
    const auto family = static_cast<size_t>(Family::kElementwise);
    const double parts = static_cast<double>(gate.num_experts);
    for (PhaseCost* phase : {&cost.forward, &cost.input_grad}) {
      phase->seconds[family] += 2 * time.seconds;
      phase->pieces += 2 * parts;
    }
    if (layout_.RecomputesExperts()) {
      cost.recompute.seconds[family] += 2 * time.seconds;
      cost.recompute.pieces += 2 * parts;
    }
    return absl::OkStatus();
  }

  bool ExchangesByKernels() const {
    return layout_.expert > 1 && constants_.row_exchange_gb_per_s > 0;
  }

  // An exchange by kernels that write to peers: the busiest link has `sent`
  // bytes, then a rank puts `rows` in order, which does not run beside it.
  absl::StatusOr<double> Exchange(double sent, double rows) const {
    Kernel take;
    take.bytes = constants_.row_exchange_bytes * rows *
                 static_cast<double>(model_.config().d_model());
    double seconds = 0;
    if (take.bytes > 0) {
      ASSIGN_OR_RETURN(const KernelTime time, kernels_.Of(take));
      seconds = time.seconds;
    }
    return seconds + constants_.RowExchangeSeconds(sent);
  }

  absl::Status Experts(int gate_index, LayerCost& cost) {
    if (layout_.ExpertGroup() < 2) return absl::OkStatus();
    const Gate& gate = model_.gates()[gate_index];
    const GateRows& rows = gate_rows_[gate_index];
    const double d = static_cast<double>(model_.config().d_model());
    double dispatch = 0;
    double combine = 0;
    double sent = 0;
    if (layout_.expert > 1 && layout_.deep_ep) {
      DispatchRequest request;
      request.stride = static_cast<int>(layout_.expert_tensor);
      request.count = static_cast<int>(layout_.expert);
      request.tokens_per_rank = LocalTokens();
      request.hidden = model_.config().d_model();
      request.fp8_dispatch = layout_.fp8_dispatch;
      request.num_experts = static_cast<int64_t>(rows.every.size());
      request.top_k = std::llround(gate.rows_per_token);
      if (model_.config().moe().has_flat() &&
          model_.config().moe().flat().num_groups() > 1) {
        // Groups of experts lie on nodes.
        request.node_limit = model_.config().moe().flat().top_groups();
      }
      if (!loads_.share.empty()) request.expert_load = rows.every;
      ASSIGN_OR_RETURN(const DispatchTime time, network_.Of(request));
      dispatch = time.dispatch_seconds;
      combine = time.combine_seconds;
      sent = time.bytes_sent;
    } else if (ExchangesByKernels()) {
      const double away = 1 - 1.0 / static_cast<double>(layout_.expert);
      sent = 2 * rows.sum / etp_ * d * kBf16Bytes * away;
      ASSIGN_OR_RETURN(dispatch, Exchange(sent / 2, rows.sum / etp_));
      ASSIGN_OR_RETURN(combine, Exchange(sent / 2, rows.mean / etp_));
      // The plan, once: as an exchange without rows.
      cost.forward_comm.expert += constants_.row_exchange_seconds;
    } else if (layout_.expert > 1) {
      // Rows of the busiest rank: all-to-all-v waits for whom it is most for.
      const double bytes = rows.sum / etp_ * d * kBf16Bytes;
      const int stride = static_cast<int>(layout_.expert_tensor);
      ASSIGN_OR_RETURN(combine, Seconds(CommKind::kAllToAll, bytes, stride,
                                        layout_.expert, &sent));
      ASSIGN_OR_RETURN(
          dispatch,
          Seconds(CommKind::kAllToAll, layout_.fp8_dispatch ? bytes / 2 : bytes,
                  stride, layout_.expert, &sent));
    }
    if (layout_.expert_tensor > 1) {
      const double bytes = rows.sum * d * kBf16Bytes;
      ASSIGN_OR_RETURN(const double gather,
                       Seconds(CommKind::kAllGather, bytes, 1,
                               layout_.expert_tensor, &sent));
      ASSIGN_OR_RETURN(const double scatter,
                       Seconds(CommKind::kReduceScatter, bytes, 1,
                               layout_.expert_tensor, &sent));
      dispatch += gather;
      combine += scatter;
    }
    RETURN_IF_ERROR(AddSorting(gate, rows, cost));
    cost.forward_comm.counts += 1;
    cost.forward_comm.expert += dispatch + combine;
    cost.forward_comm.bytes_expert += sent;
    // Backwards combine's gradient is dispatched and dispatch's combined.
    cost.backward_comm.expert += dispatch + combine;
    cost.backward_comm.bytes_expert += sent;
    if (layout_.RecomputesExperts()) {
      cost.backward_comm.counts += 1;
      cost.backward_comm.expert +=
          dispatch + (layout_.recompute == Recompute::kTorch ? 0 : combine);
    }
    return absl::OkStatus();
  }

  // Keys and values pass around the ring of CP's ranks; what attention does not
  // hide is left.
  absl::Status Context(LayerCost& cost) {
    if (layout_.context < 2) return absl::OkStatus();
    const AttentionConfig& a = model_.config().attention();
    const double width =
        a.has_latent()
            ? static_cast<double>(a.num_heads()) / tp_ *
                  (a.latent().nope_dim() + a.latent().rope_dim() +
                   a.latent().value_dim())
            : 2.0 * std::max<double>(1, a.num_kv_heads() / tp_) * a.head_dim();
    const double bytes = static_cast<double>(layout_.micro_batch) *
                         layout_.sequence * width * kBf16Bytes;
    ASSIGN_OR_RETURN(
        const double gather,
        Seconds(CommKind::kAllGather, bytes, static_cast<int>(layout_.tensor),
                layout_.context));
    const auto attention = static_cast<size_t>(Family::kAttention);
    cost.forward_comm.context +=
        std::max(0.0, gather - cost.forward.seconds[attention]);
    cost.backward_comm.context +=
        std::max(0.0, 2 * gather - cost.input_grad.seconds[attention]);
    return absl::OkStatus();
  }

  absl::Status Communicate(int layer) {
    LayerCost& cost = result_.layers[layer];
    const bool dense = layer < model_.config().num_dense_layers();
    const bool shared = !dense && model_.config().moe().shared_width() > 0;
    const bool twice = (dense || shared) && !layout_.parallel_block;
    RETURN_IF_ERROR(TensorBlocks(twice ? 2 : 1, layout_.fp8, cost));
    for (size_t g = 0; g < model_.gates().size(); ++g) {
      if (model_.gates()[g].layer != layer) continue;
      RETURN_IF_ERROR(Experts(static_cast<int>(g), cost));
    }
    return Context(cost);
  }

  absl::Status CommunicateOutput() {
    RETURN_IF_ERROR(TensorBlocks(0.5, false, result_.embedding));
    return TensorBlocks(0.5, false, result_.output);
  }

  const ModelGraph& model_;
  const Layout& layout_;
  const KernelTimes& kernels_;
  const CommTimes& network_;
  const ExpertLoads& loads_;
  const TrainingConstants constants_;
  const double tokens_;
  const double tp_;
  const double etp_;
  std::vector<GateRows> gate_rows_;
  std::optional<RankSizes> sizes_;       // Of SpreadRows: of the busiest,
  std::optional<RankSizes> home_sizes_;  // and what a rank's tokens have.
  absl::flat_hash_map<std::string, KernelTime> known_;
  std::array<double, kNumFamilies> family_seconds_ = {};
  double widest_ = 0;
  const Node* last_node_ = nullptr;
  ModelCost result_;
};

}  // namespace

absl::StatusOr<ModelCost> CostOfModel(const CostInputs& inputs) {
  return Costing(inputs).Run();
}

}  // namespace strata::sim
