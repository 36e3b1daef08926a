// What matrices are multiplied by in a model whose layers are quantised one
// after the other: each layer runs twice, however many there are.
//
//   batches -> layer 0 -> layer 1 -> layer 2 ...    pieces of the graph of
//                 |  ^                              evaluation
//     its inputs  |  |  the same batches once more, before the next layer's
//     are seen    v  |  inputs are, by the weights that it has then
//              its weights change
//
// What lies between two layers is kept for all batches, in the host's memory:
// of a model of width d some 4 d bytes a token.

#ifndef CORE_QUANT_LAYER_INPUTS_H_
#define CORE_QUANT_LAYER_INPUTS_H_

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/graph/graph.h"
#include "core/model/config.pb.h"
#include "core/passes/partition/cut_graph.h"
#include "core/quant/input_taps.h"
#include "core/runtime/backend.h"
#include "core/runtime/program.h"
#include "core/runtime/state_store.h"

namespace strata {

class LayerInputs {
 public:
  // `batches`, `backend` and `state`, which holds the model, must outlive it.
  //
  // Returns INVALID_ARGUMENT if there is no batch.
  static absl::StatusOr<std::unique_ptr<LayerInputs>> Create(
      const ModelConfig& config, const std::vector<TokenBatch>& batches,
      Backend& backend, StateStore& state);

  // As ForInputs() of the whole model, for `names` of one layer or of what
  // stands behind the last. Layers before it run with the weights that `state`
  // has for them now, so calls are in the model's order and no weight changes
  // once names of a later layer were asked for.
  //
  // Returns INVALID_ARGUMENT if names are of several layers, or of one before
  // an earlier call's; and the errors of running and of `see`. What no layer
  // multiplies by is not seen.
  absl::Status ForInputs(const std::set<std::string>& names, SeeInputs see);

 private:
  LayerInputs(const std::vector<TokenBatch>& batches, Backend& backend,
              StateStore& state)
      : batches_(batches), backend_(backend), state_(state) {}

  // Of one batch, by the graph's ids: what pieces made that later ones import.
  using Values = std::map<ValueId, std::vector<char>>;

  // The piece that multiplies by `names`; piece_ if there is none.
  absl::StatusOr<int> PieceOf(const std::set<std::string>& names) const;
  // Runs piece `piece_` to its end, and goes on to the next.
  absl::Status Advance();
  // Runs `program`, of piece `piece_`, on batch `b`.
  absl::Status Run(size_t b, Program& program) const;

  const std::vector<TokenBatch>& batches_;
  Backend& backend_;
  StateStore& state_;
  std::vector<GraphPiece> pieces_;
  std::map<std::string, std::set<int>> pieces_of_;  // That multiply by it.
  std::vector<int> last_reader_;  // [values] the last piece that imports it.
  std::vector<Values> values_;    // [batches]
  int piece_ = 0;                 // Whose imports they are.
};

}  // namespace strata

#endif  // CORE_QUANT_LAYER_INPUTS_H_
