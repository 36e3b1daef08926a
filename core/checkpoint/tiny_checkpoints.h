// Tiny public checkpoints for tests: configs of every architecture, and folders
// with random weights under the public names.

#ifndef CORE_CHECKPOINT_TINY_CHECKPOINTS_H_
#define CORE_CHECKPOINT_TINY_CHECKPOINTS_H_

#include <map>
#include <string>
#include <vector>

#include "core/tensor/dtype.h"
#include "core/tensor/shape.h"

namespace strata {

struct TinyConfig {
  const char* name;
  const char* json;
};

// One of each architecture, and the odder ones.
const std::vector<TinyConfig>& TinyConfigs();
std::string TinyConfigText(const std::string& name);

// A tensor of a file: what it is, and its bytes.
struct TinyTensor {
  DType dtype = DType::kF32;
  Shape shape;
  std::string bytes;
};
using TinyTensors = std::map<std::string, TinyTensor>;

// Random weights of the config's model by their public names: small multiples
// of powers of two, which every dtype holds exactly. F8_E4M3 is for matrices of
// layers, with their scales; vectors, gates, embedding and output are then
// BF16.
TinyTensors RandomWeights(const std::string& config_text, DType dtype);

// A folder with both; weights in shards of at most so many bytes.
void WriteCheckpoint(const std::string& folder, const std::string& config_text,
                     const TinyTensors& tensors,
                     int64_t max_shard_bytes = 1 << 30);

// The numbers as the bytes of a tensor, and a tensor of floats.
TinyTensor FloatTensor(const Shape& shape, const std::vector<float>& numbers);

}  // namespace strata

#endif  // CORE_CHECKPOINT_TINY_CHECKPOINTS_H_
