#include "cuda/model/energy_meter.h"

#include <dlfcn.h>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace strata::gpu {
namespace {

constexpr char kFile[] = "libnvidia-ml.so.1";

absl::Status Unavailable(absl::string_view what) {
  return absl::UnavailableError(
      absl::StrCat("no energy of the GPU: ", kFile, ": ", what));
}

}  // namespace

absl::StatusOr<EnergyMeter> EnergyMeter::Open(int gpu) {
  void* const library = dlopen(kFile, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return Unavailable(dlerror());
  const auto init = reinterpret_cast<int (*)()>(dlsym(library, "nvmlInit_v2"));
  const auto find = reinterpret_cast<int (*)(unsigned, void**)>(
      dlsym(library, "nvmlDeviceGetHandleByIndex_v2"));
  const auto read = reinterpret_cast<ReadFn>(
      dlsym(library, "nvmlDeviceGetTotalEnergyConsumption"));
  if (init == nullptr || find == nullptr || read == nullptr) {
    return Unavailable("a symbol is missing");
  }
  void* device = nullptr;
  unsigned long long millijoules = 0;
  int error = init();
  if (error == 0) error = find(static_cast<unsigned>(gpu), &device);
  if (error == 0) error = read(device, &millijoules);
  if (error != 0) return Unavailable(absl::StrCat("error ", error));
  return EnergyMeter(read, device);
}

double EnergyMeter::Joules() const {
  unsigned long long millijoules = 0;
  return read_(device_, &millijoules) == 0 ? 1e-3 * millijoules : -1;
}

}  // namespace strata::gpu
