// C7, edge: the vision encoder with 8-bit weights and fused blocks, at least 12
// images a second on two cores.
//
//   pixels --patches, encoder--> features      one image at a time, pixels to
//                                              features; three ways in turns:
//   F32, basic operators  |  F32, fused  |  8 bits, fused
//
// Weights are random, so nothing is said of what it sees.

#ifndef TOOLS_SCORECARD_C7_EDGE_H_
#define TOOLS_SCORECARD_C7_EDGE_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "core/model/vision/vision_encoder.h"
#include "tools/scorecard/claim.h"

namespace strata {

struct C7Options {
  uint64_t seed = 1;
  int rounds = 25;  // In each of which every way encodes one image.
  int threads = 2;
};

absl::StatusOr<ClaimResult> EdgeVision(const VisionConfig& config,
                                       const C7Options& options);

}  // namespace strata

#endif  // TOOLS_SCORECARD_C7_EDGE_H_
