#include "cuda/nccl/nccl_library.h"

#include <dlfcn.h>

#include <cstdlib>
#include <type_traits>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"

namespace strata::gpu {
namespace {

constexpr char kFile[] = "libnccl.so.2";

absl::StatusOr<NcclLibrary> Open() {
  setenv("NCCL_NVLS_ENABLE", "0", /*overwrite=*/0);
  void* const library = dlopen(kFile, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    return absl::UnavailableError(
        absl::StrCat("cannot load ", kFile, " (", dlerror(),
                     "); training on several GPUs wants NCCL 2.18 or newer"));
  }
  NcclLibrary nccl;
  absl::Status status;
  const auto find = [&](const char* name, auto& field) {
    void* const symbol = dlsym(library, name);
    if (symbol == nullptr) {
      status.Update(absl::UnavailableError(
          absl::StrCat(kFile, " has no ", name, "; want NCCL 2.18 or newer")));
    }
    field = reinterpret_cast<std::decay_t<decltype(field)>>(symbol);
  };
  find("ncclGetErrorString", nccl.get_error_string);
  find("ncclGetLastError", nccl.get_last_error);
  find("ncclGetUniqueId", nccl.get_unique_id);
  find("ncclCommInitRankConfig", nccl.comm_init_rank_config);
  find("ncclCommGetAsyncError", nccl.comm_get_async_error);
  find("ncclCommFinalize", nccl.comm_finalize);
  find("ncclCommDestroy", nccl.comm_destroy);
  find("ncclCommAbort", nccl.comm_abort);
  find("ncclGroupStart", nccl.group_start);
  find("ncclGroupEnd", nccl.group_end);
  find("ncclAllReduce", nccl.all_reduce);
  find("ncclAllGather", nccl.all_gather);
  find("ncclReduceScatter", nccl.reduce_scatter);
  find("ncclReduce", nccl.reduce);
  find("ncclBroadcast", nccl.broadcast);
  find("ncclSend", nccl.send);
  find("ncclRecv", nccl.recv);
  if (!status.ok()) return status;
  return nccl;
}

}  // namespace

absl::StatusOr<const NcclLibrary*> NcclLibrary::Load() {
  static const auto* const nccl = new absl::StatusOr<NcclLibrary>(Open());
  if (!nccl->ok()) return nccl->status();
  return &**nccl;
}

}  // namespace strata::gpu
