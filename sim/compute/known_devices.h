// Embedded data: data sheets, facts of kernel sources, calibrations.

#ifndef SIM_COMPUTE_KNOWN_DEVICES_H_
#define SIM_COMPUTE_KNOWN_DEVICES_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "sim/compute/calibration.pb.h"

namespace strata {

// Returns NOT_FOUND, with the names there are, for another device.
absl::StatusOr<KnownDevice> FindDevice(absl::string_view name);

std::vector<std::string> DeviceNames();

const SoftwareFacts& BuiltInSoftware();

// What was measured on the device alone, without what it borrows; no fits if
// nothing was.
//
// Returns NOT_FOUND as FindDevice does.
absl::StatusOr<DeviceCalibration> MeasuredCalibration(absl::string_view name);

// Reads a calibration from a file.
//
// Returns INVALID_ARGUMENT, with the file and the line, if it is not one.
absl::StatusOr<DeviceCalibration> ReadCalibration(const std::string& path);

// A calibration as text, a line for each parameter.
std::string CalibrationText(const DeviceCalibration& calibration);

}  // namespace strata

#endif  // SIM_COMPUTE_KNOWN_DEVICES_H_
