// --device and --precision: what a subcommand's programs run on.

#ifndef TOOLS_STRATA_DEVICE_FLAGS_H_
#define TOOLS_STRATA_DEVICE_FLAGS_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "core/checkpoint/weight_storage.h"
#include "core/parallel/mesh.h"
#include "core/runtime/backend.h"
#include "tools/strata/option_parser.h"

namespace strata {

struct DeviceFlags {
  std::string device = "cpu";      // Or "cuda".
  std::string precision = "fp32";  // Of products on CUDA: fp32, tf32 or bf16.
};

void AddDevice(OptionParser& app, DeviceFlags& flags);

// Of several ranks, `mesh` is theirs and `gpu` this rank's. The mesh must
// outlive the backend.
//
// Returns UNIMPLEMENTED for cuda in a build without it, UNAVAILABLE where there
// is no usable GPU, and INVALID_ARGUMENT for a precision that the CPU lacks.
absl::StatusOr<std::unique_ptr<Backend>> MakeBackend(const DeviceFlags& flags,
                                                     int num_threads,
                                                     const Mesh* mesh = nullptr,
                                                     int gpu = 0);

// How weights lie there that a user wants in `storage`.
WeightStorage StorageOn(const DeviceFlags& flags, WeightStorage storage);

}  // namespace strata

#endif  // TOOLS_STRATA_DEVICE_FLAGS_H_
