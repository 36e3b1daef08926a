#include "core/ops/rope.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/graph/builder.h"
#include "core/graph/graph.h"
#include "core/graph/op_def.h"
#include "core/ops/operand_checks.h"
#include "core/tensor/dtype.h"

namespace strata {
namespace {

absl::Status CheckStretch(const RopeOptions& options) {
  if (options.stretch == RopeStretch::kNone) return absl::OkStatus();
  if (!(options.factor > 0)) {
    return absl::InvalidArgumentError(
        absl::StrCat("factor is ", options.factor, "; want more than 0"));
  }
  if (options.stretch != RopeStretch::kLinear && !(options.original_len > 0)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "original_len is ", options.original_len, "; want more than 0"));
  }
  if (options.stretch == RopeStretch::kDynamic && options.rotary_dim == 2) {
    return absl::InvalidArgumentError(
        "rotary_dim is 2; want at least 4, as a dynamic theta has it in an "
        "exponent over rotary_dim - 2");
  }
  if (options.stretch >= RopeStretch::kYarn &&
      !(options.low > 0 && options.low < options.high)) {
    return absl::InvalidArgumentError(absl::StrCat("low is ", options.low,
                                                   " and high ", options.high,
                                                   "; want 0 < low < high"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<ValueType>> Infer(const OpView& op) {
  RETURN_IF_ERROR(WantFloat(op, 0, "x", 2));
  const ValueType& x = op.type(0);
  RETURN_IF_ERROR(WantType(op, 1, "position", {DType::kI32, {x.dims[0]}}));
  if (op.has(2)) {
    RETURN_IF_ERROR(WantType(op, 2, "seq_len", {DType::kI32, {x.dims[0]}}));
  }
  const int64_t num_heads = op.attrs.Int("num_heads");
  const int64_t rotary_dim = op.attrs.Int("rotary_dim");
  const int64_t columns = x.dims[1].bound;
  if (num_heads < 1 || columns % num_heads != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("num_heads is ", num_heads, "; want a divisor of ",
                     columns, ", the columns of x"));
  }
  const int64_t head_dim = columns / num_heads;
  if (rotary_dim < 2 || rotary_dim % 2 != 0 || rotary_dim > head_dim) {
    return absl::InvalidArgumentError(absl::StrCat(
        "rotary_dim is ", rotary_dim, "; want an even number from ", "2 to ",
        head_dim, ", the columns of a head"));
  }
  const double theta = op.attrs.Float("theta");
  if (!(theta > 0)) {
    return absl::InvalidArgumentError(
        absl::StrCat("theta is ", theta, "; want more than 0"));
  }
  RETURN_IF_ERROR(CheckStretch(RopeOptionsOf(op.attrs)));
  return std::vector<ValueType>{x};
}

void Gradient(GradContext& g) {
  if (!g.Needs(0)) return;
  g.Set(0, Rope(g.For(0), g.OutputGrad(0), g.input(1), RopeOptionsOf(g.attrs()),
                /*inverse=*/g.attrs().Int("inverse") == 0, g.input(2)));
}

// The ramp between kept (0) and stretched (1) columns of YaRN.
void YarnFrequencies(const RopeOptions& o, double* frequency) {
  const auto r = static_cast<double>(o.rotary_dim);
  // The column that turns `rotations` times over the original length.
  const auto column = [&](double rotations) {
    return r * std::log(o.original_len / (rotations * 2 * M_PI)) /
           (2 * std::log(o.theta));
  };
  double low = column(o.high), high = column(o.low);
  if (o.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, r - 1);
  if (low == high) high += 0.001;
  for (int64_t j = 0; j < o.rotary_dim / 2; ++j) {
    const double ramp = std::clamp((j - low) / (high - low), 0.0, 1.0);
    frequency[j] *= ramp / o.factor + (1 - ramp);
  }
}

// Long waves are stretched, short ones kept, and those between blended.
void Llama3Frequencies(const RopeOptions& o, double* frequency) {
  for (int64_t j = 0; j < o.rotary_dim / 2; ++j) {
    const double turns = o.original_len * frequency[j] / (2 * M_PI);
    const double keep =
        std::clamp((turns - o.low) / (o.high - o.low), 0.0, 1.0);
    frequency[j] *= (1 - keep) / o.factor + keep;
  }
}

// Four products and two additions a pair, three FLOPs a rotated column.
double Flops(const OpView& op, const Binding& binding) {
  return 3 * Extent(op.type(0).dims[0], binding) *
         static_cast<double>(op.attrs.Int("num_heads") *
                             op.attrs.Int("rotary_dim"));
}

}  // namespace

const OpDef kRope = {"Rope", Infer, Gradient, Flops};

ValueId Rope(GraphBuilder& b, ValueId x, ValueId position,
             const RopeOptions& options, bool inverse, ValueId seq_len) {
  return b.Add1(kRope, {x, position, seq_len},
                {{"num_heads", options.num_heads},
                 {"rotary_dim", options.rotary_dim},
                 {"theta", options.theta},
                 {"inverse", int64_t{inverse}},
                 {"interleaved", int64_t{options.interleaved}},
                 {"magnitude", options.magnitude},
                 {"stretch", static_cast<int64_t>(options.stretch)},
                 {"factor", options.factor},
                 {"original_len", options.original_len},
                 {"low", options.low},
                 {"high", options.high},
                 {"truncate", int64_t{options.truncate}}});
}

RopeOptions RopeOptionsOf(const Attrs& attrs) {
  RopeOptions options;
  options.num_heads = attrs.Int("num_heads");
  options.rotary_dim = attrs.Int("rotary_dim");
  options.theta = attrs.Float("theta");
  options.interleaved = attrs.Int("interleaved") != 0;
  options.magnitude = attrs.Float("magnitude");
  options.stretch = static_cast<RopeStretch>(attrs.Int("stretch"));
  options.factor = attrs.Float("factor");
  options.original_len = attrs.Float("original_len");
  options.low = attrs.Float("low");
  options.high = attrs.Float("high");
  options.truncate = attrs.Int("truncate") != 0;
  return options;
}

void RopeFrequencies(const RopeOptions& o, int64_t seq_len, double* frequency) {
  const auto r = static_cast<double>(o.rotary_dim);
  double theta = o.theta;
  if (o.stretch == RopeStretch::kDynamic) {
    const double longer = std::max<double>(seq_len, o.original_len);
    theta *= std::pow(o.factor * longer / o.original_len - (o.factor - 1),
                      r / (r - 2));
  }
  for (int64_t j = 0; j < o.rotary_dim / 2; ++j) {
    frequency[j] = std::pow(theta, -2.0 * j / r);
    if (o.stretch == RopeStretch::kLinear) frequency[j] /= o.factor;
  }
  if (o.stretch == RopeStretch::kYarn) YarnFrequencies(o, frequency);
  if (o.stretch == RopeStretch::kLlama3) Llama3Frequencies(o, frequency);
}

}  // namespace strata
