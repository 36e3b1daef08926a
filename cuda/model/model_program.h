// A decoder on the GPU with random weights, compiled as one program.

#ifndef CUDA_MODEL_MODEL_PROGRAM_H_
#define CUDA_MODEL_MODEL_PROGRAM_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/model/config.pb.h"
#include "core/model/decoder.h"
#include "core/quant/cache_format.h"
#include "core/quant/format.h"
#include "core/runtime/program.h"
#include "core/runtime/state_store.h"
#include "cuda/runtime/cuda_backend.h"

namespace strata::gpu {

// What a run does: `batch` sequences of `tokens` new tokens each, behind
// `context` earlier ones of which the caches (of random numbers) know. Without
// context: whole sequences and no cache. Logits are made of each sequence's
// last token, and of them the most likely next token.
struct ModelWork {
  int64_t batch = 1, tokens = 1, context = 0;
  int64_t max_context = 0;  // Room in the caches, this step's tokens included.
  // Weights in BF16, or packed in INT4, groups of 32, the head's in INT8; gates
  // as they were.
  bool packed = false;
  CacheFormat cache = CacheFormat::kF32;
};

class ModelProgram {
 public:
  // Weights that products may have in BF16 are that, all else F32 but for what
  // `work` says.
  static absl::StatusOr<std::unique_ptr<ModelProgram>> Create(
      const ModelConfig& config, const ModelWork& work, bool fuse);

  // One pass; `context` tokens came before in each sequence. Takes the tokens
  // that the last pass made.
  absl::Status Run(int64_t context);

  // Bytes that the latest pass must move at least, with so much context:
  // weights of the experts that were chosen and all others but embeddings,
  // once; rows of caches that are read and written.
  double Bytes(int64_t context) const;
  // Of its products and of attention, causal pairs counted.
  double Flops() const;

  const CudaBackend& backend() const { return *backend_; }
  Program& program() { return *program_; }

 private:
  ModelProgram(const ModelConfig& config, const ModelWork& work)
      : config_(config), work_(work) {}

  absl::Status Compile(bool fuse);
  absl::Status FillState();

  const ModelConfig config_;
  const ModelWork work_;
  std::unique_ptr<CudaBackend> backend_;
  std::unique_ptr<StateStore> state_;
  std::unique_ptr<Program> program_;
  std::map<std::string, QuantFormat> formats_;  // Of packed weights.
  std::vector<std::string> offsets_;  // Outputs: rows by expert of each gate.
};

}  // namespace strata::gpu

#endif  // CUDA_MODEL_MODEL_PROGRAM_H_
