// A family's formula with a set of parameters: the time of any of its shapes.

#ifndef SIM_COMPUTE_FITTED_KERNEL_H_
#define SIM_COMPUTE_FITTED_KERNEL_H_

#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "sim/compute/calibration.pb.h"
#include "sim/compute/decode_time.h"
#include "sim/compute/device.h"
#include "sim/compute/kernel_shape.h"
#include "sim/compute/mat_mul_time.h"
#include "sim/compute/moe_time.h"
#include "sim/compute/prefill_time.h"

namespace strata {

using KernelShape = std::variant<MatMul, MoeLayer, AttentionPrefill,
                                 AttentionDecode, LatentPrefill, LatentDecode>;

// "mat_mul", "moe", "attention_prefill", "attention_decode", "latent_prefill",
// "latent_decode".
const char* FamilyOf(const KernelShape& shape);

// The sizes that a calibration's ranges are about, with their names; the same
// names for all shapes of a family.
std::vector<std::pair<const char*, double>> SizesOf(const KernelShape& shape);

// An unknown of a fit.
struct ParameterBounds {
  std::string name;
  double initial = 0;
  double least = 0;
  double most = 0;
};

class FittedKernel {
 public:
  // Returns INVALID_ARGUMENT if the family is unknown, or if the parameters are
  // not exactly the family's, within their bounds.
  static absl::StatusOr<FittedKernel> Create(const KernelFit& fit);

  // The unknowns of a family, in the order of FromValues.
  //
  // Returns INVALID_ARGUMENT, with the families there are, for another.
  static absl::StatusOr<std::vector<ParameterBounds>> BoundsOf(
      absl::string_view family);

  // `family` is known; a value for each of its bounds.
  static FittedKernel FromValues(absl::string_view family,
                                 absl::Span<const double> values,
                                 const MoeSoftware& software);

  // Microseconds. The shape is of the fit's family, with positive sizes.
  double TimeUs(const Device& device, const KernelShape& shape) const;

  // Microseconds of one grouped product without its launch; of a "moe" fit.
  double GroupedUs(const Device& device, const GroupedMatMul& shape) const;

  const MatMulParameters& mat_mul() const {
    return std::get<MatMulParameters>(parameters_);
  }

 private:
  using Parameters = std::variant<MatMulParameters, MoeParameters,
                                  PrefillParameters, DecodeParameters>;

  Parameters parameters_;
  MoeSoftware software_;
};

// The device that a sheet describes.
//
// Returns INVALID_ARGUMENT if a rate or size is not positive and finite.
absl::StatusOr<Device> DeviceOf(const DeviceSheet& sheet);

}  // namespace strata

#endif  // SIM_COMPUTE_FITTED_KERNEL_H_
