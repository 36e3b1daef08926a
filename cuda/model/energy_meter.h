// Energy that a GPU has taken, by NVIDIA's management library (NVML).

#ifndef CUDA_MODEL_ENERGY_METER_H_
#define CUDA_MODEL_ENERGY_METER_H_

#include "absl/status/statusor.h"

namespace strata::gpu {

// NVML is loaded when it is first wanted, as builds link no library of the
// driver's. The whole board's energy, which the driver updates every 100 ms or
// so: spans of a second or more.
class EnergyMeter {
 public:
  // Returns UNAVAILABLE if there is no NVML, or the GPU does not tell.
  static absl::StatusOr<EnergyMeter> Open(int gpu);

  // Since the driver was loaded; negative if it does not tell any more.
  double Joules() const;

 private:
  using ReadFn = int (*)(void* device, unsigned long long* millijoules);
  EnergyMeter(ReadFn read, void* device) : read_(read), device_(device) {}

  ReadFn read_;
  void* device_;
};

}  // namespace strata::gpu

#endif  // CUDA_MODEL_ENERGY_METER_H_
