#include "sim/compute/calibrate.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <map>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/types/span.h"
#include "core/base/status_macros.h"
#include "sim/compute/calibration.pb.h"
#include "sim/compute/device.h"
#include "sim/compute/fitted_kernel.h"
#include "sim/compute/measurement.h"
#include "sim/compute/minimize.h"

namespace strata {
namespace {

constexpr uint64_t kHeldOutOneIn = 5;
constexpr size_t kLeastRows = 10;
// Below, errors count by their square, above by their size: so that neither
// noise nor a few odd rows rule a fit.
constexpr double kRobust = 0.03;
// Errors count for less the more they pass this: rows that are several times
// slower than their neighbours ran another kernel.
constexpr double kOther = 0.5;
constexpr double kSizeClassesUs[] = {20, 100, 1000,
                                     std::numeric_limits<double>::infinity()};

// family, kernel_source, precision, variant
using Key = std::tuple<std::string, std::string, std::string, std::string>;
using Rows = std::vector<const Measurement*>;

Key KeyOf(const Measurement& row) {
  return {FamilyOf(row.shape), row.kernel_source, row.precision, row.variant};
}

std::map<Key, Rows> ByKernel(absl::Span<const Measurement> measurements) {
  std::map<Key, Rows> rows;
  for (const Measurement& row : measurements) {
    rows[KeyOf(row)].push_back(&row);
  }
  for (auto& [key, of_key] : rows) {
    std::sort(of_key.begin(), of_key.end(),
              [](const Measurement* a, const Measurement* b) {
                return std::tie(a->hash, a->us) < std::tie(b->hash, b->us);
              });
  }
  return rows;
}

double RelativeError(const FittedKernel& kernel, const Device& device,
                     const Measurement& row) {
  return std::abs(kernel.TimeUs(device, row.shape) / row.us - 1);
}

std::vector<double> Errors(const FittedKernel& kernel, const Device& device,
                           const Rows& rows) {
  std::vector<double> errors;
  for (const Measurement* row : rows) {
    errors.push_back(RelativeError(kernel, device, *row));
  }
  return errors;
}

// Four digits are far finer than any error, and read well.
double Rounded(double x) {
  return std::strtod(absl::StrFormat("%.4g", x).c_str(), nullptr);
}

void SetResiduals(const FittedKernel& kernel, const Device& device,
                  const Rows& held_out, KernelFit& fit) {
  double above = 0;
  for (const double up_to : kSizeClassesUs) {
    std::vector<double> errors;
    for (const Measurement* row : held_out) {
      if (row->us > above && row->us <= up_to) {
        errors.push_back(RelativeError(kernel, device, *row));
      }
    }
    above = up_to;
    if (errors.empty()) continue;
    const RowErrors of_class = ErrorsOf(std::move(errors));
    Residual& residual = *fit.add_residual();
    residual.set_up_to_us(std::isfinite(up_to) ? up_to : 0);
    residual.set_rows(static_cast<int32_t>(of_class.rows));
    residual.set_median(Rounded(of_class.median));
    residual.set_p90(Rounded(of_class.p90));
  }
}

void SetRanges(const Rows& rows, KernelFit& fit) {
  for (const Measurement* row : rows) {
    const auto sizes = SizesOf(row->shape);
    for (size_t i = 0; i < sizes.size(); ++i) {
      if (fit.range_size() <= static_cast<int>(i)) {
        Range& range = *fit.add_range();
        range.set_name(sizes[i].first);
        range.set_least(sizes[i].second);
        range.set_most(sizes[i].second);
      }
      Range& range = *fit.mutable_range(i);
      range.set_least(std::min(range.least(), sizes[i].second));
      range.set_most(std::max(range.most(), sizes[i].second));
    }
  }
}

FittedKernel FitRows(const KernelFit& fit, const Device& device,
                     const std::vector<ParameterBounds>& bounds,
                     absl::Span<const Measurement* const> rows,
                     int max_evaluations, std::vector<double>& values) {
  std::vector<SearchRange> ranges;
  for (const ParameterBounds& bound : bounds) {
    ranges.push_back({bound.initial, bound.least, bound.most});
  }
  const auto cost = [&](absl::Span<const double> at) {
    const FittedKernel kernel =
        FittedKernel::FromValues(fit.family(), at, fit.moe());
    double sum = 0;
    for (const Measurement* row : rows) {
      const double error =
          std::log(kernel.TimeUs(device, row->shape) / row->us);
      const double size = std::sqrt(error * error + kRobust * kRobust);
      sum += size / (1 + size / kOther);
    }
    return sum / rows.size();
  };
  const Minimum minimum = Minimize(cost, ranges, max_evaluations);
  values = minimum.at;
  // A parameter that no row depends on (FP8's quantisation in BF16 rows) keeps
  // its initial value rather than one that the search passed by.
  for (size_t i = 0; i < values.size(); ++i) {
    std::vector<double> without = values;
    without[i] = bounds[i].initial;
    if (cost(without) <= minimum.value) values = std::move(without);
  }
  for (double& value : values) value = Rounded(value);
  return FittedKernel::FromValues(fit.family(), values, fit.moe());
}

}  // namespace

RowErrors ErrorsOf(std::vector<double> errors) {
  RowErrors result;
  result.rows = errors.size();
  if (errors.empty()) return result;
  std::sort(errors.begin(), errors.end());
  result.median = errors[errors.size() / 2];
  result.p90 = errors[errors.size() * 9 / 10];
  return result;
}

absl::StatusOr<Calibrated> Calibrate(
    const KnownDevice& device, const SoftwareFacts& facts,
    absl::Span<const Measurement> measurements, const FitOptions& options,
    absl::FunctionRef<void(const KernelErrors&)> progress) {
  ASSIGN_OR_RETURN(const Device sheet, DeviceOf(device.sheet()));
  Calibrated result;
  result.calibration.set_device(device.device());
  *result.calibration.mutable_sheet() = device.sheet();
  for (const auto& [key, rows] : ByKernel(measurements)) {
    KernelErrors errors;
    std::tie(errors.family, errors.kernel_source, errors.precision,
             errors.variant) = key;
    if (rows.size() < kLeastRows) {
      return absl::InvalidArgumentError(
          absl::StrFormat("%s %s %s %s has %d rows; want at least %d",
                          errors.family, errors.kernel_source, errors.precision,
                          errors.variant, rows.size(), kLeastRows));
    }
    KernelFit& fit = *result.calibration.add_fit();
    fit.set_family(errors.family);
    fit.set_kernel_source(errors.kernel_source);
    fit.set_precision(errors.precision);
    fit.set_variant(errors.variant);
    if (errors.family == "moe") {
      *fit.mutable_moe() =
          SoftwareOf(facts, errors.kernel_source, device.device());
    }
    Rows seen, held_out;
    for (const Measurement* row : rows) {
      (row->hash % kHeldOutOneIn == 0 ? held_out : seen).push_back(row);
    }
    // So few rows that chance put all on one side.
    if (seen.empty() || held_out.empty()) seen = held_out = rows;

    ASSIGN_OR_RETURN(const std::vector<ParameterBounds> bounds,
                     FittedKernel::BoundsOf(errors.family));
    std::vector<double> values;
    const FittedKernel kernel =
        FitRows(fit, sheet, bounds,
                absl::MakeConstSpan(seen).subspan(0, options.max_rows),
                options.max_evaluations, values);
    for (size_t i = 0; i < bounds.size(); ++i) {
      Parameter& parameter = *fit.add_parameter();
      parameter.set_name(bounds[i].name);
      parameter.set_value(values[i]);
    }
    SetResiduals(kernel, sheet, held_out, fit);
    SetRanges(rows, fit);
    errors.seen = ErrorsOf(Errors(kernel, sheet, seen));
    errors.held_out = ErrorsOf(Errors(kernel, sheet, held_out));
    progress(errors);
    result.errors.push_back(errors);
  }
  return result;
}

absl::StatusOr<std::vector<KernelErrors>> CheckCalibration(
    const DeviceCalibration& calibration,
    absl::Span<const Measurement> measurements) {
  ASSIGN_OR_RETURN(const Device device, DeviceOf(calibration.sheet()));
  std::vector<KernelErrors> result;
  std::vector<double> all;
  for (const auto& [key, rows] : ByKernel(measurements)) {
    KernelErrors errors;
    std::tie(errors.family, errors.kernel_source, errors.precision,
             errors.variant) = key;
    const KernelFit* found = nullptr;
    for (const KernelFit& fit : calibration.fit()) {
      if (Key(fit.family(), fit.kernel_source(), fit.precision(),
              fit.variant()) == key) {
        found = &fit;
      }
    }
    if (found == nullptr) {
      return absl::NotFoundError(absl::StrCat(
          "the calibration of ", calibration.device(), " has no fit of ",
          errors.family, " ", errors.kernel_source, " ", errors.precision,
          errors.variant.empty() ? "" : " ", errors.variant,
          ", of which there ", rows.size() == 1 ? "is " : "are ", rows.size(),
          rows.size() == 1 ? " row" : " rows"));
    }
    ASSIGN_OR_RETURN(const FittedKernel kernel, FittedKernel::Create(*found));
    const std::vector<double> of_kernel = Errors(kernel, device, rows);
    all.insert(all.end(), of_kernel.begin(), of_kernel.end());
    errors.held_out = ErrorsOf(of_kernel);
    result.push_back(errors);
  }
  KernelErrors total;
  total.held_out = ErrorsOf(std::move(all));
  result.push_back(total);
  return result;
}

}  // namespace strata
