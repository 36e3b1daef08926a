// The constants of training: one set for each kind of machine, at most ten, and
// one efficiency for each framework; each with its meaning and its origin.
//
//   constants.textproto, or a file of that form (constants.proto)
//     |
//     v
//   Constants --name of a framework--> Software (sim/workload/machine.h)

#ifndef SIM_VALIDATION_CONSTANTS_H_
#define SIM_VALIDATION_CONSTANTS_H_

#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "sim/validation/constants.pb.h"
#include "sim/workload/machine.h"

namespace strata::sim {

inline constexpr int kMaxMachineConstants = 10;
// A kind of machine with fewer rows is as uncertain as all of them together.
inline constexpr int kFewRows = 5;

struct Constants {
  Software machine;  // Its framework and efficiency aside.
  std::map<std::string, double> efficiency;  // By framework.
  StepCalibration calibration;               // As it was read.
};

// Text of constants.proto's form.
//
// Returns INVALID_ARGUMENT with the line of what is no text proto, or with the
// name of what is not so: a constant that is unknown, negative, given twice or
// without meaning or origin; more than kMaxMachineConstants for a kind; a kind
// given twice; an efficiency or a residual that is not above 0.
absl::StatusOr<Constants> ParseConstants(absl::string_view text);

// Those in the binary.
absl::StatusOr<Constants> DefaultConstants();

// Software of that name; "" is megatron-core.
//
// Returns NOT_FOUND with the names there are.
absl::StatusOr<Software> SoftwareOf(const Constants& constants,
                                    absl::string_view framework);

}  // namespace strata::sim

#endif  // SIM_VALIDATION_CONSTANTS_H_
