#include "sim/compute/fitted_kernel.h"

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/base/check.h"
#include "core/base/status_macros.h"
#include "sim/compute/calibration.pb.h"
#include "sim/compute/decode_time.h"
#include "sim/compute/device.h"
#include "sim/compute/kernel_shape.h"
#include "sim/compute/mat_mul_time.h"
#include "sim/compute/moe_time.h"
#include "sim/compute/parameter.h"
#include "sim/compute/prefill_time.h"

namespace strata {
namespace {

constexpr const char* kFamilies[] = {"mat_mul",           "moe",
                                     "attention_prefill", "attention_decode",
                                     "latent_prefill",    "latent_decode"};

// Calls `use` with a default of the family's parameters; false if there is no
// such family.
template <typename Use>
bool WithFamily(absl::string_view family, Use use) {
  if (family == "mat_mul") {
    use(MatMulParameters());
  } else if (family == "moe") {
    use(MoeParameters());
  } else if (family == "attention_prefill" || family == "latent_prefill") {
    use(PrefillParameters());
  } else if (family == "attention_decode" || family == "latent_decode") {
    use(DecodeParameters());
  } else {
    return false;
  }
  return true;
}

absl::Status UnknownFamily(absl::string_view family) {
  return absl::InvalidArgumentError(absl::StrCat(
      "no family of kernels \"", family,
      "\"; there are mat_mul, moe, attention_prefill, attention_decode, "
      "latent_prefill, latent_decode"));
}

bool Has(const google::protobuf::RepeatedPtrField<LayerShape>& shapes,
         int64_t experts, int64_t inner) {
  for (const LayerShape& shape : shapes) {
    if (shape.inner() == inner &&
        (shape.experts() == 0 || shape.experts() == experts)) {
      return true;
    }
  }
  return false;
}

struct TimeOf {
  const Device& device;
  const MoeSoftware& software;

  double operator()(const MatMulParameters& p, const MatMul& s) const {
    return MatMulUs(device, p, s);
  }
  double operator()(const MoeParameters& p, const MoeLayer& s) const {
    const MoeKernel kernel = {
        software.fixed_tiles() &&
            !Has(software.tuned(), s.experts / s.expert_parallel,
                 s.inner / s.tensor_parallel),
        software.passes_all_choices()};
    return MoeUs(device, p, kernel, s);
  }
  double operator()(const PrefillParameters& p,
                    const AttentionPrefill& s) const {
    return PrefillUs(device, p, s);
  }
  double operator()(const PrefillParameters& p, const LatentPrefill& s) const {
    return LatentPrefillUs(device, p, s);
  }
  double operator()(const DecodeParameters& p, const AttentionDecode& s) const {
    return DecodeUs(device, p, s);
  }
  double operator()(const DecodeParameters& p, const LatentDecode& s) const {
    return LatentDecodeUs(device, p, s);
  }
  template <typename Parameters, typename Shape>
  double operator()(const Parameters&, const Shape&) const {
    CHECK(false) << "the shape is of another family than the parameters";
    return 0;
  }
};

}  // namespace

const char* FamilyOf(const KernelShape& shape) {
  return kFamilies[shape.index()];
}

std::vector<std::pair<const char*, double>> SizesOf(const KernelShape& shape) {
  using Sizes = std::vector<std::pair<const char*, double>>;
  struct Visitor {
    Sizes operator()(const MatMul& s) const {
      return {{"m", s.m}, {"n", s.n}, {"k", s.k}};
    }
    Sizes operator()(const MoeLayer& s) const {
      return {{"tokens", s.tokens},
              {"hidden", s.hidden},
              {"inner", s.inner / s.tensor_parallel},
              {"experts", s.experts / s.expert_parallel},
              {"top_k", s.top_k}};
    }
    Sizes operator()(const AttentionPrefill& s) const {
      return {{"batch", s.batch},       {"sequence", s.sequence},
              {"heads", s.heads},       {"kv_heads", s.kv_heads},
              {"head_dim", s.head_dim}, {"window", s.window}};
    }
    Sizes operator()(const AttentionDecode& s) const {
      return {{"batch", s.batch},       {"context", s.context},
              {"heads", s.heads},       {"kv_heads", s.kv_heads},
              {"head_dim", s.head_dim}, {"window", s.window}};
    }
    Sizes operator()(const LatentPrefill& s) const {
      return {{"batch", s.batch}, {"sequence", s.sequence}, {"heads", s.heads}};
    }
    Sizes operator()(const LatentDecode& s) const {
      return {{"batch", s.batch}, {"context", s.context}, {"heads", s.heads}};
    }
  };
  return std::visit(Visitor(), shape);
}

absl::StatusOr<std::vector<ParameterBounds>> FittedKernel::BoundsOf(
    absl::string_view family) {
  std::vector<ParameterBounds> bounds;
  const bool known = WithFamily(family, [&](auto parameters) {
    for (const auto& spec : SpecsOf(parameters)) {
      bounds.push_back({spec.name, spec.initial, spec.least, spec.most});
    }
  });
  if (!known) return UnknownFamily(family);
  return bounds;
}

FittedKernel FittedKernel::FromValues(absl::string_view family,
                                      absl::Span<const double> values,
                                      const MoeSoftware& software) {
  FittedKernel kernel;
  const bool known = WithFamily(family, [&](auto parameters) {
    kernel.parameters_ = strata::FromValues<decltype(parameters)>(values);
  });
  CHECK(known) << family;
  kernel.software_ = software;
  return kernel;
}

absl::StatusOr<FittedKernel> FittedKernel::Create(const KernelFit& fit) {
  ASSIGN_OR_RETURN(const std::vector<ParameterBounds> bounds,
                   BoundsOf(fit.family()));
  const std::string what = absl::StrCat(
      "fit ", fit.family(), " ", fit.kernel_source(), " ", fit.precision());
  std::vector<double> values;
  for (const ParameterBounds& bound : bounds) {
    int found = 0;
    for (const Parameter& parameter : fit.parameter()) {
      if (parameter.name() != bound.name) continue;
      if (found++ > 0) {
        return absl::InvalidArgumentError(
            absl::StrCat(what, ": parameter ", bound.name, " is there twice"));
      }
      // Written with few digits, so a bound may be passed by a rounding.
      if (!(parameter.value() >= bound.least * 0.999 &&
            parameter.value() <= bound.most * 1.001)) {
        return absl::InvalidArgumentError(absl::StrFormat(
            "%s: parameter %s is %g; want %g to %g", what, bound.name,
            parameter.value(), bound.least, bound.most));
      }
      values.push_back(parameter.value());
    }
    if (found == 0) {
      return absl::InvalidArgumentError(
          absl::StrCat(what, ": parameter ", bound.name, " is missing"));
    }
  }
  if (static_cast<size_t>(fit.parameter_size()) != bounds.size()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: %d parameters; want the %d of the family", what,
                        fit.parameter_size(), bounds.size()));
  }
  return FromValues(fit.family(), values, fit.moe());
}

double FittedKernel::TimeUs(const Device& device,
                            const KernelShape& shape) const {
  return std::visit(TimeOf{device, software_}, parameters_, shape);
}

double FittedKernel::GroupedUs(const Device& device,
                               const GroupedMatMul& shape) const {
  return GroupedMatMulUs(device, std::get<MoeParameters>(parameters_), shape);
}

absl::StatusOr<Device> DeviceOf(const DeviceSheet& sheet) {
  const auto positive = [](double x) { return x > 0 && std::isfinite(x); };
  if (!positive(sheet.num_sms()) || !positive(sheet.bf16_tflops()) ||
      !positive(sheet.memory_gb_per_s()) || !positive(sheet.l2_mib()) ||
      !(sheet.fp8_tflops() >= 0) || !std::isfinite(sheet.fp8_tflops())) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "the data sheet has %d SMs, %g BF16 TFLOPS, %g FP8 TFLOPS, %g GB/s, "
        "%g MiB of L2; want positive numbers (0 for no FP8)",
        sheet.num_sms(), sheet.bf16_tflops(), sheet.fp8_tflops(),
        sheet.memory_gb_per_s(), sheet.l2_mib()));
  }
  Device device;
  device.num_sms = sheet.num_sms();
  device.bf16_flops = sheet.bf16_tflops() * 1e12;
  device.fp8_flops = sheet.fp8_tflops() * 1e12;
  device.memory_bytes_per_s = sheet.memory_gb_per_s() * 1e9;
  device.l2_bytes = sheet.l2_mib() * 1024 * 1024;
  return device;
}

}  // namespace strata
