// The vision encoder: an image in patches, through blocks of attention and
// hierarchical experts.
//
//   image [size, size, 3]
//     |  cut into patches of 16 x 16; before them a row of zeros, the summary
//     v
//   patches [t, 768] --projection--> x [t, d]
//     + row_embedding[grid_row] + column_embedding[grid_column]    learned, 2-D
//     |
//     |  blocks:  x += attention(norm(x)), each patch to all of its image
//     |           x  = tiers of experts (core/model/moe.h)
//     v
//   norm --> features [images, d], of the summaries
//
// The specification's A5 and C7. Parameters bear the decoder's names where the
// parts are the same ("model.layers.0.mlp.tier.0..."). Weights are random until
// training comes.

#ifndef CORE_MODEL_VISION_VISION_ENCODER_H_
#define CORE_MODEL_VISION_VISION_ENCODER_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "core/graph/builder.h"
#include "core/model/config.pb.h"

namespace strata {

struct VisionConfig {
  int64_t image_size = 224;  // Pixels of a side.
  int64_t patch_size = 16;
  int64_t channels = 3;
  // d_model, layers, heads, experts, norms; vocabulary and positions are
  // unused.
  ModelConfig blocks;

  int64_t grid() const { return image_size / patch_size; }
  // Of an image, the summary first.
  int64_t num_tokens() const { return 1 + grid() * grid(); }
  int64_t patch_width() const { return patch_size * patch_size * channels; }
};

// What C7 measures: 224 x 224, patches of 16, width 192, 12 blocks of 3 heads
// and of two tiers of 16 experts, of which a token takes at most two each. The
// experts that a token takes have as many weights as the one MLP that an
// encoder of that width has, 4 x 192 wide.
VisionConfig EdgeVisionConfig();

// Returns INVALID_ARGUMENT, naming the field, if there is no such encoder.
absl::Status Validate(const VisionConfig& config);

// Emits the graph for up to `max_images` images. Inputs: "num_tokens" [] I32,
// "num_images" [] I32, "patches" [t, patch_width], "grid_row" and
// "grid_column" [t] I32 (of a summary: grid()), "seq_start" [max_images + 1]
// I32 (t behind the last), "summary_row" [num_images] I32. Output: "features"
// [num_images, d].
//
// Errors stay in `builder`. `config` must be valid.
void BuildVisionEncoder(GraphBuilder& builder, const VisionConfig& config,
                        int64_t max_images);

// The rows of one image, pixels [size, size, channels] in 0 to 255, to
// `patches` [num_tokens, patch_width]: each pixel x as x / 127.5 - 1, a patch
// row by row, patches likewise.
void CutPatches(const VisionConfig& config, absl::Span<const uint8_t> pixels,
                absl::Span<float> patches);

}  // namespace strata

#endif  // CORE_MODEL_VISION_VISION_ENCODER_H_
