// The parameters of a family of kernels: numbers with a name, a meaning, and
// bounds between which the fitter searches.
//
// A family has a struct of doubles and lists its fields once, in the order of
// its calibration:
//
//   struct MatMulParameters { double launch_us = 0; ... };
//   absl::Span<const ParameterSpec<MatMulParameters>> SpecsOf(
//       const MatMulParameters&);

#ifndef SIM_COMPUTE_PARAMETER_H_
#define SIM_COMPUTE_PARAMETER_H_

#include <cstddef>
#include <vector>

#include "absl/types/span.h"

namespace strata {

template <typename Parameters>
struct ParameterSpec {
  const char* name;
  double& (*field)(Parameters& parameters);
  double initial;  // where the fitter starts
  double least;    // positive: the fitter steps in the logarithm
  double most;
};

// In the order of the specs.
template <typename Parameters>
std::vector<double> ValuesOf(Parameters parameters) {
  std::vector<double> values;
  for (const ParameterSpec<Parameters>& spec : SpecsOf(parameters)) {
    values.push_back(spec.field(parameters));
  }
  return values;
}

template <typename Parameters>
Parameters FromValues(absl::Span<const double> values) {
  Parameters parameters;
  const auto specs = SpecsOf(parameters);
  for (size_t i = 0; i < specs.size(); ++i) {
    specs[i].field(parameters) = values[i];
  }
  return parameters;
}

template <typename Parameters>
Parameters InitialParameters() {
  Parameters parameters;
  for (const ParameterSpec<Parameters>& spec : SpecsOf(parameters)) {
    spec.field(parameters) = spec.initial;
  }
  return parameters;
}

}  // namespace strata

#endif  // SIM_COMPUTE_PARAMETER_H_
