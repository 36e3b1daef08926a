// Which layers of a benchmark's log ran tiles that had been tuned for them.
//
// aiconfigurator's benchmark of TensorRT-LLM (collector/trtllm/collect_moe.py)
// keeps what the library's tuner found in files, so that it need not tune for
// every distribution of loads:
//
//   name    hidden_inner_experts, inner and experts those of a rank
//   lookup  the first file whose name begins with the layer's own; if there is
//           none, the layer is tuned and writes one
//   inside  the library's own keys, with top_k and the degrees of parallelism
//
// So a layer that comes after another one of the same name (8 experts of
// Mixtral 8x22B in 8 parts, 8 a rank of GLM-5's 256), or of a name that begins
// alike (1 expert a rank after 16 or 128), reads a file that holds nothing for
// it. The library then takes the first tile that it knows. Which layer came
// first no size tells, but the order of the log does.

#ifndef SIM_COMPUTE_TUNING_FILES_H_
#define SIM_COMPUTE_TUNING_FILES_H_

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "sim/compute/kernel_shape.h"

namespace strata {

class TuningFiles {
 public:
  // Whether the layer has tiles tuned for it. Rows are asked for in the order
  // of the log, where each layer's tokens rise under each distribution; a row
  // with no more tokens than the one before is of another run of the layer.
  // Where files of the layer's own and of others fit, which is read depends on
  // the file system: such rows count as untuned.
  bool IsTuned(const MoeLayer& layer, absl::string_view distribution);

  // What follows was measured on another machine.
  void NextMachine();

 private:
  // hidden, inner of a rank, precision
  using Weights = std::tuple<int64_t, int64_t, Precision>;
  using Owner = std::array<int64_t, 4>;  // top_k, TP, EP, gated
  struct File {
    std::string experts;  // of a rank, in digits
    Owner owner;
  };
  struct Run {
    int64_t tokens = 0;  // of its latest row
    bool tuned = false;
  };

  bool Look(const Weights& weights, const std::string& experts,
            const Owner& owner);

  std::map<Weights, std::vector<File>> files_;
  std::map<std::tuple<Weights, std::string, Owner, std::string>,
           std::vector<Run>>
      runs_;
};

}  // namespace strata

#endif  // SIM_COMPUTE_TUNING_FILES_H_
