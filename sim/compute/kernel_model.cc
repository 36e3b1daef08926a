#include "sim/compute/kernel_model.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/base/check.h"
#include "core/base/status_macros.h"
#include "sim/compute/calibration.pb.h"
#include "sim/compute/decode_time.h"
#include "sim/compute/device.h"
#include "sim/compute/fitted_kernel.h"
#include "sim/compute/kernel_shape.h"
#include "sim/compute/known_devices.h"

namespace strata {
namespace {

// Attention's backward pass: five products (scores, their gradient, those of
// q, k and v) where the forward pass has two.
constexpr double kBackwardProducts = 2.5;

const char* NameOf(Precision precision) {
  switch (precision) {
    case Precision::kBf16:
      return "bfloat16";
    case Precision::kFp8:
      return "fp8";
    case Precision::kFp8Block:
      return "fp8_block";
    case Precision::kInt4Weight:
      return "int4_wo";
  }
  return "";
}

const char* CacheName(bool fp8) { return fp8 ? "fp8" : "bfloat16"; }

// A rate that is not a share of the sheet's; the lender's, scaled by what it
// depends on.
double Scaled(absl::string_view name, double value, const DeviceSheet& lender,
              const DeviceSheet& sheet) {
  const double memory = sheet.memory_gb_per_s() / lender.memory_gb_per_s();
  const double sms = static_cast<double>(sheet.num_sms()) / lender.num_sms();
  const double math = sheet.bf16_tflops() / lender.bf16_tflops();
  if (name == "l2_gb_per_s") return value * memory;
  if (name == "block_gb_per_s") return value * memory / sms;
  if (name == "operand_gb_per_s") return value * math / sms;
  return value;
}

// The lender's fit, for a device on which it was not measured.
absl::StatusOr<KernelFit> Borrowed(const KernelFit& fit,
                                   const DeviceSheet& lender,
                                   const DeviceSheet& sheet) {
  ASSIGN_OR_RETURN(const auto bounds, FittedKernel::BoundsOf(fit.family()));
  KernelFit borrowed = fit;
  borrowed.clear_residual();
  borrowed.clear_range();
  for (Parameter& parameter : *borrowed.mutable_parameter()) {
    double value = Scaled(parameter.name(), parameter.value(), lender, sheet);
    for (const ParameterBounds& bound : bounds) {
      if (bound.name != parameter.name()) continue;
      value = std::clamp(value, bound.least, bound.most);
    }
    parameter.set_value(value);
  }
  return borrowed;
}

using FitName = std::tuple<std::string, std::string, std::string>;

FitName NameOfFit(const KernelFit& fit) {
  return {fit.family(), fit.precision(), fit.variant()};
}

// Adds the lender's fits of kernels that the calibration has none of.
absl::Status Borrow(const DeviceCalibration& lender,
                    DeviceCalibration& calibration,
                    std::vector<std::string>& notes) {
  std::set<FitName> own;
  for (const KernelFit& fit : calibration.fit()) own.insert(NameOfFit(fit));
  std::set<std::string> names;
  for (const KernelFit& fit : lender.fit()) {
    const bool fp8 = absl::StartsWith(fit.precision(), "fp8");
    if (own.count(NameOfFit(fit)) > 0) continue;
    if (fp8 && calibration.sheet().fp8_tflops() == 0) continue;
    ASSIGN_OR_RETURN(*calibration.add_fit(),
                     Borrowed(fit, lender.sheet(), calibration.sheet()));
    names.insert(absl::StrCat(fit.family(), " ", fit.precision()));
  }
  if (!names.empty()) {
    notes.push_back(absl::StrCat(
        "not measured on ", calibration.device(),
        ", computed from its data sheet and the shares measured on ",
        lender.device(), ": ", absl::StrJoin(names, ", ")));
  }
  return absl::OkStatus();
}

}  // namespace

struct KernelModel::Fits {
  struct Fit {
    std::string kernel_source;
    std::string precision;
    std::string variant;
    FittedKernel kernel;
    std::vector<Residual> residuals;
    std::vector<Range> ranges;
    MoeSoftware software;
  };

  DeviceCalibration calibration;
  Device device;
  std::vector<std::string> notes;
  std::map<std::string, std::vector<Fit>, std::less<>> of_family;

  // The fit that serves a shape best: its source, then its precision, then its
  // variant. Null if there is none of the family.
  const Fit* Find(absl::string_view family, absl::string_view source,
                  absl::string_view precision,
                  absl::string_view variant) const {
    const auto found = of_family.find(family);
    if (found == of_family.end()) return nullptr;
    const Fit* best = nullptr;
    int best_score = -1;
    for (const Fit& fit : found->second) {
      const bool both_fp8 = absl::StartsWith(precision, "fp8") &&
                            absl::StartsWith(fit.precision, "fp8");
      const int score =
          (!source.empty() && fit.kernel_source == source ? 16 : 0) +
          (fit.variant == variant ? 8 : 0) +
          (fit.precision == precision ? 4
           : both_fp8                 ? 2
                                      : 0) +
          (source.empty() && !fit.software.ungated() ? 1 : 0);
      if (score > best_score) {
        best = &fit;
        best_score = score;
      }
    }
    return best;
  }

  Prediction Predict(const Fit* fit, const KernelShape& shape,
                     absl::string_view precision) const {
    Prediction prediction;
    if (fit == nullptr) return prediction;
    const double us = fit->kernel.TimeUs(device, shape);
    prediction.seconds = us * 1e-6;
    SetBand(*fit, us, prediction);
    prediction.inside_range =
        !fit->ranges.empty() && fit->precision == precision;
    const auto sizes = SizesOf(shape);
    for (size_t i = 0; i < fit->ranges.size() && i < sizes.size(); ++i) {
      if (sizes[i].second < fit->ranges[i].least() ||
          sizes[i].second > fit->ranges[i].most()) {
        prediction.inside_range = false;
      }
    }
    return prediction;
  }

  static void SetBand(const Fit& fit, double us, Prediction& prediction) {
    for (const Residual& residual : fit.residuals) {
      prediction.median_error = residual.median();
      prediction.relative_error = residual.p90();
      if (residual.up_to_us() > 0 && us <= residual.up_to_us()) break;
    }
  }
};

KernelModel::KernelModel(std::unique_ptr<Fits> fits) : fits_(std::move(fits)) {}
KernelModel::KernelModel(KernelModel&&) noexcept = default;
KernelModel& KernelModel::operator=(KernelModel&&) noexcept = default;
KernelModel::~KernelModel() = default;

absl::StatusOr<KernelModel> KernelModel::Create(DeviceCalibration calibration) {
  auto fits = std::make_unique<Fits>();
  ASSIGN_OR_RETURN(fits->device, DeviceOf(calibration.sheet()));
  for (const KernelFit& fit : calibration.fit()) {
    ASSIGN_OR_RETURN(FittedKernel kernel, FittedKernel::Create(fit));
    fits->of_family[fit.family()].push_back(
        {fit.kernel_source(),
         fit.precision(),
         fit.variant(),
         std::move(kernel),
         {fit.residual().begin(), fit.residual().end()},
         {fit.range().begin(), fit.range().end()},
         fit.moe()});
  }
  if (fits->of_family.find("mat_mul") == fits->of_family.end()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the calibration of ", calibration.device(),
        " has no fit of the family mat_mul, which all others lean on"));
  }
  const double backward = calibration.attention_backward_share();
  if (!(backward >= 0 && backward <= 2)) {
    return absl::InvalidArgumentError(
        absl::StrCat("attention_backward_share is ", backward,
                     "; want 0 to 2, 0 for the forward pass's"));
  }
  fits->calibration = std::move(calibration);
  return KernelModel(std::move(fits));
}

absl::StatusOr<KernelModel> KernelModel::Load(absl::string_view device) {
  ASSIGN_OR_RETURN(const KnownDevice known, FindDevice(device));
  ASSIGN_OR_RETURN(DeviceCalibration calibration, MeasuredCalibration(device));
  std::vector<std::string> notes;
  // A lender may have one in turn: H800 borrows from H100, which from H200.
  std::string lender = known.lender();
  while (!lender.empty()) {
    ASSIGN_OR_RETURN(const DeviceCalibration of_lender,
                     MeasuredCalibration(lender));
    if (calibration.fit_size() == 0) {
      calibration.set_derived_from(lender);
      calibration.set_origin(of_lender.origin());
    }
    if (calibration.attention_backward_share() == 0) {
      calibration.set_attention_backward_share(
          of_lender.attention_backward_share());
    }
    RETURN_IF_ERROR(Borrow(of_lender, calibration, notes));
    ASSIGN_OR_RETURN(const KnownDevice next, FindDevice(lender));
    lender = next.lender();
  }
  ASSIGN_OR_RETURN(KernelModel model, Create(std::move(calibration)));
  model.fits_->notes = std::move(notes);
  return model;
}

std::vector<std::string> CalibratedDevices() { return DeviceNames(); }

const DeviceCalibration& KernelModel::calibration() const {
  return fits_->calibration;
}

const Device& KernelModel::device() const { return fits_->device; }

const std::vector<std::string>& KernelModel::notes() const {
  return fits_->notes;
}

Prediction KernelModel::Predict(const MatMul& shape) const {
  if (shape.m <= 0 || shape.n <= 0 || shape.k <= 0) return Prediction();
  const char* precision = NameOf(shape.precision);
  return fits_->Predict(fits_->Find("mat_mul", "", precision, ""), shape,
                        precision);
}

Prediction KernelModel::Predict(const GroupedMatMul& shape) const {
  Prediction prediction;
  if (shape.rows.rows <= 0 || shape.n <= 0 || shape.k <= 0) return prediction;
  const char* precision = NameOf(shape.precision);
  const Fits::Fit* moe = fits_->Find("moe", "", precision, "");
  const Fits::Fit* dense = fits_->Find("mat_mul", "", "bfloat16", "");
  CHECK(dense != nullptr);
  if (moe == nullptr) {
    // No calibration of grouped products: one of all rows.
    return Predict(MatMul{static_cast<int64_t>(std::ceil(shape.rows.rows)),
                          shape.n, shape.k, shape.precision, shape.reuse});
  }
  const double us = dense->kernel.mat_mul().launch_us +
                    moe->kernel.GroupedUs(fits_->device, shape);
  prediction.seconds = us * 1e-6;
  // Layers were measured, not products: their error stands for it.
  Fits::SetBand(*moe, us, prediction);
  prediction.inside_range = !moe->ranges.empty() && moe->precision == precision;
  return prediction;
}

Prediction KernelModel::Predict(const MoeLayer& shape) const {
  if (shape.tokens <= 0 || shape.hidden <= 0 || shape.inner <= 0 ||
      shape.experts <= 0 || shape.top_k <= 0 || shape.tensor_parallel <= 0 ||
      shape.expert_parallel <= 0) {
    return Prediction();
  }
  const char* precision = NameOf(shape.precision);
  return fits_->Predict(fits_->Find("moe", shape.kernel_source, precision, ""),
                        shape, precision);
}

Prediction KernelModel::Predict(const AttentionPrefill& shape) const {
  if (shape.batch <= 0 || shape.sequence <= 0 || shape.heads <= 0 ||
      shape.kv_heads <= 0 || shape.head_dim <= 0) {
    return Prediction();
  }
  const char* precision = CacheName(shape.fp8_kv_cache);
  Prediction prediction = fits_->Predict(
      fits_->Find("attention_prefill", "", precision, ""), shape, precision);
  if (shape.backward || !shape.causal) prediction.inside_range = false;
  if (shape.backward) {
    const double share = fits_->calibration.attention_backward_share();
    prediction.seconds *= kBackwardProducts / (share > 0 ? share : 1);
  }
  return prediction;
}

Prediction KernelModel::Predict(const AttentionDecode& shape) const {
  if (shape.batch <= 0 || shape.context <= 0 || shape.heads <= 0 ||
      shape.kv_heads <= 0 || shape.head_dim <= 0) {
    return Prediction();
  }
  const char* precision = CacheName(shape.fp8_kv_cache);
  return fits_->Predict(
      fits_->Find("attention_decode", "", precision,
                  strata::NameOf(KernelOf(fits_->device, shape))),
      shape, precision);
}

Prediction KernelModel::Predict(const LatentPrefill& shape) const {
  if (shape.batch <= 0 || shape.sequence <= 0 || shape.heads <= 0) {
    return Prediction();
  }
  const char* precision = CacheName(shape.fp8_kv_cache);
  Prediction prediction = fits_->Predict(
      fits_->Find("latent_prefill", "", precision, ""), shape, precision);
  if (shape.backward) {
    const double share = fits_->calibration.attention_backward_share();
    prediction.seconds *= kBackwardProducts / (share > 0 ? share : 1);
    prediction.inside_range = false;
  }
  return prediction;
}

Prediction KernelModel::Predict(const LatentDecode& shape) const {
  if (shape.batch <= 0 || shape.context <= 0 || shape.heads <= 0) {
    return Prediction();
  }
  const char* precision = CacheName(shape.fp8_kv_cache);
  return fits_->Predict(fits_->Find("latent_decode", "", precision, ""), shape,
                        precision);
}

Prediction KernelModel::Predict(const Elementwise& shape) const {
  Prediction prediction;
  if (!(shape.bytes > 0)) return prediction;
  // Launches and streams as a product's kernel does; not measured by itself.
  const Fits::Fit* dense = fits_->Find("mat_mul", "", "bfloat16", "");
  CHECK(dense != nullptr);
  const MatMulParameters& p = dense->kernel.mat_mul();
  prediction.seconds =
      shape.kernels * p.launch_us * 1e-6 +
      shape.bytes / (p.memory_share * fits_->device.memory_bytes_per_s);
  return prediction;
}

}  // namespace strata
