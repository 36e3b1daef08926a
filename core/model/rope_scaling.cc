#include "core/model/rope_scaling.h"

#include <cmath>
#include <cstdint>

#include "core/model/config.pb.h"
#include "core/ops/rope.h"

namespace strata {
namespace {

// YaRN's temperature for a factor (arXiv:2309.00071, eq. 22, as DeepSeek
// weighs it).
double Temperature(double factor, double mscale) {
  return factor <= 1 ? 1 : 0.1 * mscale * std::log(factor) + 1;
}

double YarnMagnitude(const RopeScaling& s) {
  if (s.attention_factor() > 0) return s.attention_factor();
  if (s.mscale() != 0 && s.mscale_all_dim() != 0) {
    return Temperature(s.factor(), s.mscale()) /
           Temperature(s.factor(), s.mscale_all_dim());
  }
  return Temperature(s.factor(), 1);
}

}  // namespace

RopeOptions RopeOf(const AttentionConfig& attention, int64_t num_heads,
                   int64_t rotary_dim) {
  const RopeScaling& scaling = attention.rope_scaling();
  RopeOptions options;
  options.num_heads = num_heads;
  options.rotary_dim = rotary_dim;
  options.theta = attention.rope_theta();
  options.interleaved = attention.rope_interleaved();
  options.factor = scaling.factor();
  options.original_len = static_cast<double>(scaling.original_max_seq_len());
  switch (scaling.type()) {
    case RopeScaling::LINEAR:
      options.stretch = RopeStretch::kLinear;
      break;
    case RopeScaling::DYNAMIC:
      options.stretch = RopeStretch::kDynamic;
      break;
    case RopeScaling::YARN:
      options.stretch = RopeStretch::kYarn;
      options.low = scaling.beta_slow();
      options.high = scaling.beta_fast();
      options.truncate = !scaling.exact_ramp();
      options.magnitude = YarnMagnitude(scaling);
      break;
    case RopeScaling::LLAMA3:
      options.stretch = RopeStretch::kLlama3;
      options.low = scaling.low_freq_factor();
      options.high = scaling.high_freq_factor();
      break;
    default:
      options.stretch = RopeStretch::kNone;
      break;
  }
  return options;
}

bool HasDynamicRope(const ModelConfig& config) {
  return config.attention().rope_scaling().type() == RopeScaling::DYNAMIC;
}

double LatentScoreFactor(const RopeScaling& scaling) {
  if (scaling.type() == RopeScaling::NONE || scaling.mscale_all_dim() == 0) {
    return 1;
  }
  const double m = Temperature(scaling.factor(), scaling.mscale_all_dim());
  return m * m;
}

}  // namespace strata
