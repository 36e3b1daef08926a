// A model folder from one with weights in floating point to one with quantised
// weights, layer by layer.
//
//   folder, tokens   --layer 0--> <out>.partial/layer-0.safetensors
//                    --layer 1--> <out>.partial/layer-1.safetensors ...
//                    --rest----->  (the output projection)
//                    --all------> <out>: config.json with quantization_config,
//                                 weights, tokenizer; appears whole or not at
//                                 all
//
// A layer is calibrated on what reaches it through the layers that are
// quantised already. A run that was stopped goes on behind the last layer that
// it finished, if model, tokens and options are the same; else it begins anew.
//
// Quantised are the matrices that programs can take packed
// (core/quant/packed_parameters.h) but for those of gates; norms and gates keep
// what they have, embeddings become BF16.

#ifndef CORE_QUANT_QUANTIZE_MODEL_H_
#define CORE_QUANT_QUANTIZE_MODEL_H_

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/quant/calibrate.h"
#include "core/quant/format.h"
#include "core/quant/input_taps.h"
#include "core/quant/quantized_matrix.h"
#include "core/quant/quantized_weight.h"
#include "core/runtime/backend_factory.h"
#include "core/runtime/state_store.h"

namespace strata {

// Of a model's tensors by our names, [experts * rows] each.
using OutputWeights = std::map<std::string, std::vector<float>>;

struct QuantizeOptions {
  QuantFormat format;
  // 0, or bytes that all tensors together may have: matrices and experts that
  // gain most by it, a byte, get 4 or 8 bits in place of the 2 or 4 of
  // `format`. What one gains is the error of its outputs on the data at few
  // bits less that at more, over the energy of its layer's outputs: tokens of
  // experts count as they come.
  int64_t budget_bytes = 0;
  // Of a budget: gives what an error's energy of an output counts instead, of
  // all tensors that can get more bits (core/quant/bit_gains.h). Called once,
  // before any work; wants data. Null: none.
  std::function<absl::StatusOr<OutputWeights>()> output_weights;
  // Of the output projection, where it is no embedding table: 4, 8, or 0 to
  // leave it.
  int head_bits = 8;
  // Matrices whose columns the groups do not divide get a scale a row; else
  // they are an error.
  bool rows_where_indivisible = false;
  CalibrationMethod method = CalibrationMethod::kLearned;
  int num_threads = 1;
  // Makes what the model runs on; null: the CPU, with num_threads. Layers of an
  // earlier run are taken whatever that ran on.
  BackendFactory backend;
  bool replace = false;  // A folder that is there already.
  // Sees the steps that are done of all: layers and the rest.
  std::function<void(int64_t done, int64_t all)> progress;
  std::function<bool()> stop;  // Asked between layers; may be null.
  // Behind the last layer: sees the model as it would be written, its numbers
  // in F32, and its matrices, whose codes, scales and zeros it may change, not
  // their formats. If it fails or is cancelled, nothing is written, and the
  // layers are kept for another run. Null: nothing is changed.
  std::function<absl::Status(const StateStore& model,
                             QuantizedParameters& matrices)>
      learn;
  // Behind that, likewise: sees the model as it will be written, and may change
  // the numbers of gates, which are stored in F32 then.
  std::function<absl::Status(StateStore& model)> retune;
};

struct QuantizeResult {
  std::vector<QuantizedWeight> weights;
  int64_t num_bytes = 0;  // Of all tensors that were written.
  int64_t num_source_bytes = 0;
  int64_t layers_resumed = 0;  // That an earlier run had done.
};

// Quantises the model in `folder`, ours or a public checkpoint, to `out`.
//
// Returns ALREADY_EXISTS if there is something at `out`; CANCELLED if stopped;
// INVALID_ARGUMENT, naming the tensor, for weights or inputs that are not
// finite, groups that do not divide, a model that is quantised already, a
// budget that cannot be met, experts of a layer that saw no token at all, or
// weights of outputs that GainsOfBits refuses; and the errors of
// `backend`, `output_weights`, `learn` and `retune`.
absl::StatusOr<QuantizeResult> QuantizeModel(
    const std::string& folder, const std::string& out,
    const std::vector<TokenBatch>& batches, const QuantizeOptions& options);

}  // namespace strata

#endif  // CORE_QUANT_QUANTIZE_MODEL_H_
