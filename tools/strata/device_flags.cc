#include "tools/strata/device_flags.h"

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "core/cpu/all_kernels.h"
#include "core/cpu/cpu_backend.h"
#include "tools/strata/cuda_device.h"
#include "tools/strata/option_parser.h"

namespace strata {

void AddDevice(OptionParser& app, DeviceFlags& flags) {
  app.AddOption("--device", flags.device,
                "Where to run: cpu, or cuda for the GPU (in a build with "
                "--config=cuda)")
      ->TypeName("DEVICE")
      ->Check(OneOf({"cpu", "cuda"}));
  app.AddOption("--precision", flags.precision,
                "Of matrix products on the GPU: fp32 as on the CPU, or "
                "operands rounded to tf32 or bf16, with sums in fp32")
      ->TypeName("KIND")
      ->Check(OneOf({"fp32", "tf32", "bf16"}));
}

absl::StatusOr<std::unique_ptr<Backend>> MakeBackend(const DeviceFlags& flags,
                                                     int num_threads,
                                                     const Mesh* mesh,
                                                     int gpu) {
  if (flags.device == "cuda") {
    return MakeCudaBackend({flags.precision, gpu, mesh});
  }
  if (flags.precision != "fp32") {
    return absl::InvalidArgumentError(absl::StrCat(
        "--precision=", flags.precision, " is of the GPU; want --device=cuda"));
  }
  auto cpu = std::make_unique<CpuBackend>(num_threads, AllCpuKernels());
  cpu->set_mesh(mesh);
  return cpu;
}

WeightStorage StorageOn(const DeviceFlags& flags, WeightStorage storage) {
  const bool wants_alike =
      flags.device == "cuda" && storage == WeightStorage::kAsStored;
  return wants_alike ? WeightStorage::kAlike : storage;
}

}  // namespace strata
