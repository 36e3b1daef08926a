// Features of images: the vision encoder (core/model/vision) as a program.
//
//   ASSIGN_OR_RETURN(auto encoder,
//                    ImageEncoder::Create(config, backend, state, {}));
//   ASSIGN_OR_RETURN(features, encoder->Encode(pixels, /*num_images=*/1));

#ifndef SERVING_VISION_IMAGE_ENCODER_H_
#define SERVING_VISION_IMAGE_ENCODER_H_

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/graph/graph.h"
#include "core/model/vision/vision_encoder.h"
#include "core/runtime/backend.h"
#include "core/runtime/program.h"
#include "core/runtime/state_store.h"

namespace strata {

struct ImageEncoderOptions {
  int64_t max_images = 1;  // In one run.
  bool fuse = true;        // As far as the backend has kernels.
};

// Not for several threads; kernels use the backend's own.
class ImageEncoder {
 public:
  // The graph of basic operators, as Create compiles it.
  static absl::StatusOr<Graph> BuildGraph(const VisionConfig& config,
                                          int64_t max_images);

  // An encoder over the weights in `state`, which, with `backend`, must outlive
  // it. Weights that are there in BF16 or packed are read as that.
  //
  // Returns INVALID_ARGUMENT if config or options are wrong or `state` holds
  // tensors of another, and RESOURCE_EXHAUSTED if memory runs out.
  static absl::StatusOr<std::unique_ptr<ImageEncoder>> Create(
      const VisionConfig& config, Backend& backend, StateStore& state,
      const ImageEncoderOptions& options);

  // The features [num_images, d] of pixels [num_images, size, size, channels],
  // valid until the next call.
  //
  // Returns INVALID_ARGUMENT if the pixels are not so many images, of which
  // there may be 1 to max_images.
  absl::StatusOr<absl::Span<const float>> Encode(
      absl::Span<const uint8_t> pixels, int64_t num_images);

  const Program& program() const { return *program_; }

 private:
  ImageEncoder(const VisionConfig& config, const ImageEncoderOptions& options)
      : config_(config), options_(options) {}

  const VisionConfig config_;
  const ImageEncoderOptions options_;
  std::unique_ptr<Program> program_;
};

}  // namespace strata

#endif  // SERVING_VISION_IMAGE_ENCODER_H_
