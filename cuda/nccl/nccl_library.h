// NCCL, loaded when it is first asked for: a program that trains on one GPU
// runs where it is not installed.

#ifndef CUDA_NCCL_NCCL_LIBRARY_H_
#define CUDA_NCCL_NCCL_LIBRARY_H_

#include "absl/status/statusor.h"
#include "nccl.h"

namespace strata::gpu {

// The functions of nccl.h that are used, without their prefix.
struct NcclLibrary {
  decltype(&ncclGetErrorString) get_error_string;
  decltype(&ncclGetLastError) get_last_error;
  decltype(&ncclGetUniqueId) get_unique_id;
  decltype(&ncclCommInitRankConfig) comm_init_rank_config;
  decltype(&ncclCommGetAsyncError) comm_get_async_error;
  decltype(&ncclCommFinalize) comm_finalize;
  decltype(&ncclCommDestroy) comm_destroy;
  decltype(&ncclCommAbort) comm_abort;
  decltype(&ncclGroupStart) group_start;
  decltype(&ncclGroupEnd) group_end;
  decltype(&ncclAllReduce) all_reduce;
  decltype(&ncclAllGather) all_gather;
  decltype(&ncclReduceScatter) reduce_scatter;
  decltype(&ncclReduce) reduce;
  decltype(&ncclBroadcast) broadcast;
  decltype(&ncclSend) send;
  decltype(&ncclRecv) recv;

  // Loads it once a process. NVLink multicast stays off unless the environment
  // says otherwise (NCCL_NVLS_ENABLE): a program that dies in the midst of it
  // can take the GPUs of a host out of service.
  //
  // Returns UNAVAILABLE if libnccl is not there, or older than these.
  static absl::StatusOr<const NcclLibrary*> Load();
};

}  // namespace strata::gpu

#endif  // CUDA_NCCL_NCCL_LIBRARY_H_
