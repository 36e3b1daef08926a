#include "serving/vision/image_encoder.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "core/base/status_macros.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/model/vision/vision_encoder.h"
#include "core/runtime/backend.h"
#include "core/runtime/fuse_for.h"
#include "core/runtime/program.h"
#include "core/runtime/state_store.h"
#include "core/tensor/tensor.h"

namespace strata {

absl::StatusOr<Graph> ImageEncoder::BuildGraph(const VisionConfig& config,
                                               int64_t max_images) {
  RETURN_IF_ERROR(Validate(config));
  if (max_images < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_images is ", max_images, "; want at least 1"));
  }
  GraphBuilder builder;
  BuildVisionEncoder(builder, config, max_images);
  return builder.Finish();
}

absl::StatusOr<std::unique_ptr<ImageEncoder>> ImageEncoder::Create(
    const VisionConfig& config, Backend& backend, StateStore& state,
    const ImageEncoderOptions& options) {
  ASSIGN_OR_RETURN(Graph graph, BuildGraph(config, options.max_images));
  if (options.fuse) graph = FuseFor(graph, backend, state);
  auto encoder =
      std::unique_ptr<ImageEncoder>(new ImageEncoder(config, options));
  ASSIGN_OR_RETURN(encoder->program_,
                   Program::Compile(std::move(graph), backend, state));
  return encoder;
}

absl::StatusOr<absl::Span<const float>> ImageEncoder::Encode(
    absl::Span<const uint8_t> pixels, int64_t num_images) {
  const int64_t of_image =
      config_.image_size * config_.image_size * config_.channels;
  const auto size = static_cast<int64_t>(pixels.size());
  if (num_images < 1 || num_images > options_.max_images ||
      size != num_images * of_image) {
    return absl::InvalidArgumentError(absl::StrCat(
        size, " bytes of pixels for ", num_images, " images; want 1 to ",
        options_.max_images, " of ", of_image));
  }
  const int64_t tokens = config_.num_tokens(), grid = config_.grid();
  *program_->Input("num_tokens").as<int32_t>() =
      static_cast<int32_t>(num_images * tokens);
  *program_->Input("num_images").as<int32_t>() =
      static_cast<int32_t>(num_images);
  const absl::Span<float> patches = program_->Input("patches").span<float>();
  int32_t* const row = program_->Input("grid_row").as<int32_t>();
  int32_t* const column = program_->Input("grid_column").as<int32_t>();
  int32_t* const start = program_->Input("seq_start").as<int32_t>();
  int32_t* const summary = program_->Input("summary_row").as<int32_t>();
  const int64_t width = tokens * config_.patch_width();
  for (int64_t i = 0; i <= options_.max_images; ++i) {
    start[i] = static_cast<int32_t>(std::min(i, num_images) * tokens);
  }
  for (int64_t i = 0; i < num_images; ++i) {
    summary[i] = start[i];
    CutPatches(config_, pixels.subspan(i * of_image, of_image),
               patches.subspan(i * width, width));
    for (int64_t j = 0; j < tokens; ++j) {
      const bool is_summary = j == 0;
      row[i * tokens + j] =
          static_cast<int32_t>(is_summary ? grid : (j - 1) / grid);
      column[i * tokens + j] =
          static_cast<int32_t>(is_summary ? grid : (j - 1) % grid);
    }
  }
  RETURN_IF_ERROR(program_->Run());
  return program_->Output("features").span<float>();
}

}  // namespace strata
