#include "tools/scorecard/c7_edge.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "absl/types/span.h"
#include "core/base/random.h"
#include "core/base/status_macros.h"
#include "core/cpu/all_kernels.h"
#include "core/cpu/cpu_backend.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/model/config.pb.h"
#include "core/model/init.h"
#include "core/model/vision/vision_encoder.h"
#include "core/quant/round_parameters.h"
#include "core/runtime/state_store.h"
#include "serving/vision/image_encoder.h"
#include "tools/scorecard/claim.h"
#include "training/demo/report.h"

namespace strata {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double kPromised = 12;

double Median(std::vector<double> x) {
  std::nth_element(x.begin(), x.begin() + x.size() / 2, x.end());
  return x[x.size() / 2];
}

// One way to run the encoder, with weights of its own.
struct Way {
  std::string name;
  std::unique_ptr<CpuBackend> backend;
  std::unique_ptr<StateStore> state;
  std::unique_ptr<ImageEncoder> encoder;
  int64_t weight_bytes = 0;
  std::vector<float> features;
  std::vector<double> seconds;  // [rounds]
};

absl::StatusOr<Way> MakeWay(const std::string& name, const VisionConfig& config,
                            const C7Options& options, bool eight_bits,
                            bool fuse) {
  Way way;
  way.name = name;
  way.backend = std::make_unique<CpuBackend>(options.threads, AllCpuKernels());
  way.state = std::make_unique<StateStore>(*way.backend);
  ASSIGN_OR_RETURN(const Graph graph,
                   ImageEncoder::BuildGraph(config, /*max_images=*/1));
  StateStore wide(*way.backend);
  StateStore& first = eight_bits ? wide : *way.state;
  RETURN_IF_ERROR(first.Declare(graph));
  InitializeParameters(config.blocks, options.seed, first);
  if (eight_bits) {
    RETURN_IF_ERROR(RoundParameters(graph, RoundableWeights(graph),
                                    {8, 32, true}, wide, *way.state));
  }
  way.weight_bytes = way.state->num_bytes();
  ASSIGN_OR_RETURN(way.encoder, ImageEncoder::Create(config, *way.backend,
                                                     *way.state, {1, fuse}));
  return way;
}

double Distance(const std::vector<float>& a, const std::vector<float>& b) {
  double error = 0, energy = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    error += std::pow(double{a[i]} - b[i], 2);
    energy += std::pow(double{a[i]}, 2);
  }
  return std::sqrt(error / energy);
}

std::vector<double> Rates(const Way& way) {
  std::vector<double> rates;
  for (const double s : way.seconds) rates.push_back(1 / s);
  return rates;
}

Measure ImagesPerSecond(const Way& baseline, const Way& ours) {
  Measure measure;
  measure.what = "images/s, one at a time";
  measure.baseline_name = baseline.name;
  measure.ours_name = ours.name;
  measure.baseline = {Median(Rates(baseline)),
                      SpreadOf(Rates(baseline)).deviation};
  measure.ours = {Median(Rates(ours)), SpreadOf(Rates(ours)).deviation};
  measure.ratio = {measure.ours.mean / measure.baseline.mean, 0};
  return measure;
}

// The same encoder where a token has no choice: tiers of as many experts as it
// takes at most, all of which it takes.
VisionConfig WithoutChoice(VisionConfig config) {
  HierarchicalRouterConfig& router =
      *config.blocks.mutable_moe()->mutable_hierarchical();
  for (int tier = 0; tier < router.tier_experts_size(); ++tier) {
    router.set_tier_experts(tier, router.k_max());
  }
  router.set_k_min(router.k_max());
  router.set_coarse_keep(1);
  return config;
}

// How far features in 8 bits are from those in F32, one image.
absl::StatusOr<double> DistanceOfEightBits(const VisionConfig& config,
                                           const C7Options& options,
                                           absl::Span<const uint8_t> pixels) {
  std::vector<float> features[2];
  for (const bool eight_bits : {false, true}) {
    ASSIGN_OR_RETURN(const Way way,
                     MakeWay("", config, options, eight_bits, true));
    ASSIGN_OR_RETURN(const absl::Span<const float> of_way,
                     way.encoder->Encode(pixels, 1));
    features[eight_bits ? 1 : 0].assign(of_way.begin(), of_way.end());
  }
  return Distance(features[0], features[1]);
}

}  // namespace

absl::StatusOr<ClaimResult> EdgeVision(const VisionConfig& config,
                                       const C7Options& options) {
  std::vector<Way> ways;
  const auto add = [&](const std::string& name, bool eight_bits,
                       bool fuse) -> absl::Status {
    ASSIGN_OR_RETURN(Way way, MakeWay(name, config, options, eight_bits, fuse));
    ways.push_back(std::move(way));
    return absl::OkStatus();
  };
  RETURN_IF_ERROR(add("F32, basic operators", false, false));
  RETURN_IF_ERROR(add("F32, fused", false, true));
  RETURN_IF_ERROR(add("8 bits, fused", true, true));
  Random random(options.seed, /*stream=*/0);
  std::vector<uint8_t> pixels(config.image_size * config.image_size *
                              config.channels);
  for (uint8_t& x : pixels) x = static_cast<uint8_t>(256 * random.Uniform());
  for (int round = -1; round < options.rounds; ++round) {  // One to warm up.
    for (Way& way : ways) {
      const Clock::time_point start = Clock::now();
      ASSIGN_OR_RETURN(const absl::Span<const float> features,
                       way.encoder->Encode(pixels, 1));
      const std::chrono::duration<double> taken = Clock::now() - start;
      if (round >= 0) way.seconds.push_back(taken.count());
      way.features.assign(features.begin(), features.end());
    }
  }
  const Way& basic = ways[0];
  const Way& ours = ways[2];
  ClaimResult result;
  result.id = "C7";
  result.title = "Edge vision encoder";
  Measure promised = ImagesPerSecond(basic, ours);
  promised.of = Measure::Of::kOurs;
  promised.ratio = promised.ours;
  promised.want = Measure::Want::kAtLeast;
  promised.promised = kPromised;
  result.measures.push_back(std::move(promised));
  result.measures.push_back(ImagesPerSecond(basic, ways[1]));
  result.measures.push_back(ImagesPerSecond(basic, ours));
  Measure bytes;
  bytes.what = "bytes of weights";
  bytes.baseline_name = basic.name;
  bytes.ours_name = ours.name;
  bytes.baseline = {static_cast<double>(basic.weight_bytes), 0};
  bytes.ours = {static_cast<double>(ours.weight_bytes), 0};
  bytes.ratio = {bytes.ours.mean / bytes.baseline.mean, 0};
  result.measures.push_back(std::move(bytes));
  const double flops = CostOf(basic.encoder->program().graph(),
                              basic.encoder->program().LiveBinding())
                           .flops;
  result.notes.push_back(absl::StrFormat(
      "%d x %d pixels, patches of %d, width %d, %d blocks, %d threads, %.2f "
      "GFLOP an image as routed; medians of %d rounds",
      config.image_size, config.image_size, config.patch_size,
      config.blocks.d_model(), config.blocks.num_layers(), options.threads,
      1e-9 * flops, options.rounds));
  ASSIGN_OR_RETURN(const double without_choice,
                   DistanceOfEightBits(WithoutChoice(config), options, pixels));
  result.notes.push_back(absl::StrFormat(
      "features in 8 bits are off by %.2f %% of their root mean square; by "
      "%.2f %% where tiers have only the %d experts that a token takes, so "
      "that no gate can choose otherwise",
      100 * Distance(basic.features, ours.features), 100 * without_choice,
      config.blocks.moe().hierarchical().k_max()));
  result.notes.push_back("weights are random; pixels are given, not decoded");
  return result;
}

}  // namespace strata
