#include "core/quant/layer_inputs.h"

#include <cstring>
#include <iterator>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/graph/graph.h"
#include "core/model/config.pb.h"
#include "core/passes/partition/cut_graph.h"
#include "core/quant/input_taps.h"
#include "core/runtime/program.h"
#include "core/tensor/tensor.h"

namespace strata {
namespace {

constexpr char kLayer[] = "layer";

}  // namespace

absl::StatusOr<std::unique_ptr<LayerInputs>> LayerInputs::Create(
    const ModelConfig& config, const std::vector<TokenBatch>& batches,
    Backend& backend, StateStore& state) {
  auto layers =
      std::unique_ptr<LayerInputs>(new LayerInputs(batches, backend, state));
  ASSIGN_OR_RETURN(const Graph whole, EvaluationOf(config, batches));
  const auto num_layers = static_cast<int>(config.num_layers());
  ASSIGN_OR_RETURN(const std::vector<int> layer_of,
                   BalancedStages(whole, num_layers, num_layers));
  ASSIGN_OR_RETURN(layers->pieces_,
                   CutGraph(whole, layer_of, num_layers, kLayer));
  layers->last_reader_.resize(whole.values().size());
  for (int i = 0; i < num_layers; ++i) {
    for (const ValueId id : layers->pieces_[i].imports) {
      layers->last_reader_[id] = i;
    }
    const Graph& graph = layers->pieces_[i].graph;
    for (const Node& node : graph.nodes()) {
      const Value* const weight = MultipliedBy(graph, node);
      if (weight != nullptr) layers->pieces_of_[weight->name].insert(i);
    }
  }
  layers->values_.resize(batches.size());
  return layers;
}

absl::StatusOr<int> LayerInputs::PieceOf(
    const std::set<std::string>& names) const {
  std::set<int> found;
  for (const std::string& name : names) {
    const auto of_name = pieces_of_.find(name);
    if (of_name == pieces_of_.end()) continue;
    found.insert(of_name->second.begin(), of_name->second.end());
  }
  if (found.empty()) return piece_;
  const int first = *found.begin();
  if (found.size() == 1 && first >= piece_) return first;
  return absl::InvalidArgumentError(absl::StrCat(
      "matrices like \"", *names.begin(), "\" are multiplied by in ",
      found.size(), " layers, first in ", first, "; want one, from layer ",
      piece_, " on"));
}

absl::Status LayerInputs::Run(size_t b, Program& program) const {
  FillBatch(batches_[b], program);
  for (const ValueId id : pieces_[piece_].imports) {
    const std::vector<char>& from = values_[b].at(id);
    std::memcpy(program.Input(PieceValueName(kLayer, id)).data, from.data(),
                from.size());
  }
  return program.Run();
}

absl::Status LayerInputs::Advance() {
  const GraphPiece& piece = pieces_[piece_];
  ASSIGN_OR_RETURN(const std::unique_ptr<Program> program,
                   Program::Compile(piece.graph, backend_, state_));
  for (size_t b = 0; b < batches_.size(); ++b) {
    RETURN_IF_ERROR(Run(b, *program));
    Values& values = values_[b];
    for (const ValueId id : piece.exports) {
      const TensorView made = program->Output(PieceValueName(kLayer, id));
      values[id].resize(made.num_bytes());
      std::memcpy(values[id].data(), made.data, made.num_bytes());
    }
    for (auto it = values.begin(); it != values.end();) {
      it = last_reader_[it->first] <= piece_ ? values.erase(it) : std::next(it);
    }
  }
  ++piece_;
  return absl::OkStatus();
}

absl::Status LayerInputs::ForInputs(const std::set<std::string>& names,
                                    SeeInputs see) {
  ASSIGN_OR_RETURN(const int piece, PieceOf(names));
  while (piece_ < piece) RETURN_IF_ERROR(Advance());
  Graph graph = pieces_[piece].graph;
  const std::vector<InputTap> taps = AddTaps(names, graph);
  ASSIGN_OR_RETURN(const std::unique_ptr<Program> program,
                   Program::Compile(std::move(graph), backend_, state_));
  for (size_t b = 0; b < batches_.size(); ++b) {
    RETURN_IF_ERROR(Run(b, *program));
    RETURN_IF_ERROR(ShowTaps(taps, *program, see));
  }
  return absl::OkStatus();
}

}  // namespace strata
