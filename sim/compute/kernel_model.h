// How long a kernel takes on a GPU: formulas of a few physical parameters
// (sim/compute/*_time.h), calibrated for a device.
//
//   ASSIGN_OR_RETURN(const KernelModel model, KernelModel::Load("h100"));
//   const Prediction p = model.Predict(MatMul{4096, 7168, 2048});
//   p.seconds, p.relative_error, p.inside_range
//
// Predictions are pure, thread-safe, and take about a microsecond or less.
// Sizes of 0 or less, or rows of 0, take no time. Shapes that no data covers
// are predicted all the same and say so: inside_range is false.

#ifndef SIM_COMPUTE_KERNEL_MODEL_H_
#define SIM_COMPUTE_KERNEL_MODEL_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "sim/compute/calibration.pb.h"
#include "sim/compute/device.h"
#include "sim/compute/kernel_shape.h"

namespace strata {

struct Prediction {
  double seconds = 0;
  // Half of the measured rows of this size lie within `median_error` of their
  // prediction, nine in ten within `relative_error`. 0 if nothing was measured.
  double median_error = 0;
  double relative_error = 0;
  // The calibration's rows cover the shape.
  bool inside_range = false;
};

class KernelModel {
 public:
  // The embedded calibration of that name: "a100", "h100", "h200", or a device
  // that borrows another's shares of its own data sheet: "h800", "b200".
  //
  // Returns NOT_FOUND, with the names there are, for another.
  static absl::StatusOr<KernelModel> Load(absl::string_view device);

  // Returns INVALID_ARGUMENT if a rate of the sheet is not positive, if a
  // family is unknown, if its parameters are not exactly those of its family,
  // or if one is outside of its bounds.
  static absl::StatusOr<KernelModel> Create(DeviceCalibration calibration);

  KernelModel(KernelModel&&) noexcept;
  KernelModel& operator=(KernelModel&&) noexcept;
  ~KernelModel();

  const DeviceCalibration& calibration() const;
  const Device& device() const;

  // What to warn of, a sentence each: a derived device, families that were not
  // measured on this one and are computed from the data sheet or a sibling.
  const std::vector<std::string>& notes() const;

  Prediction Predict(const MatMul& shape) const;
  Prediction Predict(const GroupedMatMul& shape) const;
  Prediction Predict(const MoeLayer& shape) const;
  Prediction Predict(const AttentionPrefill& shape) const;
  Prediction Predict(const AttentionDecode& shape) const;
  Prediction Predict(const LatentPrefill& shape) const;
  Prediction Predict(const LatentDecode& shape) const;
  Prediction Predict(const Elementwise& shape) const;

 private:
  struct Fits;

  explicit KernelModel(std::unique_ptr<Fits> fits);

  std::unique_ptr<Fits> fits_;
};

// The devices that Load knows.
std::vector<std::string> CalibratedDevices();

}  // namespace strata

#endif  // SIM_COMPUTE_KERNEL_MODEL_H_
