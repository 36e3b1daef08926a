// Models that fusion is tested and measured on, one of each kind of block, and
// a run of one step of them.

#ifndef CORE_PASSES_FUSE_FUSE_MODELS_H_
#define CORE_PASSES_FUSE_FUSE_MODELS_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/cpu/cpu_backend.h"
#include "core/graph/graph.h"
#include "core/model/config.pb.h"
#include "core/quant/cache_format.h"
#include "core/runtime/kernel_registry.h"
#include "core/runtime/program.h"
#include "core/runtime/state_store.h"
#include "core/tensor/dtype.h"

namespace strata {

// Two layers of width 24, four heads over two, whose widths are no multiples of
// a vector's.
ModelConfig DenseModel();
ModelConfig BiasedModel();        // Biases, norms of heads, a window.
ModelConfig FlatModel();          // Softmax, two of eight experts.
ModelConfig GroupedModel();       // Sigmoid, groups, bias, a shared expert.
ModelConfig LatentModel();        // Latent attention, flat experts.
ModelConfig PlainLatentModel();   // Without a rank of queries; with biases.
ModelConfig HierarchicalModel();  // Three tiers that half of the tokens leave.

struct StepOptions {
  DType compute = DType::kF32;
  bool fuse = true;
  bool narrow = false;       // Weights in BF16, where all readers take them.
  int64_t cache_blocks = 0;  // 0: a cache of rows.
  CacheFormat cache = CacheFormat::kF32;  // That is: as `compute` has them.
  int attention_bits = 0;  // Of probabilities, over a cache in codes.
  int64_t max_tokens = 130;
  int num_threads = 2;
  bool reuse_memory = true;
};

inline constexpr int64_t kStepBlockSize = 4;
inline constexpr int64_t kStepSequences = 3;

// The graph of a step that generates; router offsets are outputs too.
absl::StatusOr<Graph> StepGraph(const ModelConfig& config,
                                const StepOptions& options);

// The operators of nodes whose scope begins so, in order.
std::vector<std::string> OpNames(const Graph& graph,
                                 const std::string& scope = "");

// One model, ready to run steps; every source is filled by its name, alike for
// every instance. Caches are full of random rows, so that any position can be
// attended from.
class StepModel {
 public:
  static absl::StatusOr<std::unique_ptr<StepModel>> Create(
      const ModelConfig& config, KernelRegistry kernels,
      const StepOptions& options);

  // Runs `tokens` tokens: the last of sequence 1, and the rest runs of the
  // others from position 3 on.
  absl::Status Run(int64_t tokens);

  // Every float output of the latest run, and every state, in double.
  std::map<std::string, std::vector<double>> Results() const;

  Program& program() { return *program_; }

 private:
  StepModel(KernelRegistry kernels, int num_threads)
      : backend_(num_threads, std::move(kernels)), state_(backend_) {}

  CpuBackend backend_;
  StateStore state_;
  std::unique_ptr<Program> program_;
  bool paged_ = false;
  int64_t max_seq_len_ = 0;
};

}  // namespace strata

#endif  // CORE_PASSES_FUSE_FUSE_MODELS_H_
