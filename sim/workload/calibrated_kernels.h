// Kernel times from the calibration of a GPU (sim/compute).

#ifndef SIM_WORKLOAD_CALIBRATED_KERNELS_H_
#define SIM_WORKLOAD_CALIBRATED_KERNELS_H_

#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "sim/compute/kernel_model.h"
#include "sim/workload/kernel_times.h"

namespace strata::sim {

class CalibratedKernels : public KernelTimes {
 public:
  // Returns NOT_FOUND if no calibration is called `device` ("h100", ...).
  static absl::StatusOr<CalibratedKernels> Load(absl::string_view device);

  absl::StatusOr<KernelTime> Of(const Kernel& kernel) const override;

  // What to warn of.
  const std::vector<std::string>& notes() const { return model_.notes(); }

 private:
  explicit CalibratedKernels(KernelModel model) : model_(std::move(model)) {}

  KernelModel model_;
};

}  // namespace strata::sim

#endif  // SIM_WORKLOAD_CALIBRATED_KERNELS_H_
