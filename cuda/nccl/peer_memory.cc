#include "cuda/nccl/peer_memory.h"

#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "core/base/status_macros.h"
#include "core/parallel/communicator.h"
#include "cuda/runtime/status.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {
namespace {

// A smaller allocation may share its pages with others, which a handle would
// then give away too.
constexpr int64_t kPageBytes = int64_t{2} << 20;

// Where a rank is.
struct Place {
  char host[64];
  int64_t process;
  int32_t device;
  int32_t padding;
};

// Its block, for other processes and for threads of its own.
struct Block {
  int32_t error;  // cudaError_t of making it.
  int32_t padding;
  char* address;
  cudaIpcMemHandle_t handle;
};

// [ranks] `mine` of each.
template <typename T>
absl::StatusOr<std::vector<T>> GatherOf(Communicator& host, const T& mine) {
  std::vector<T> all(host.size());
  const std::vector<int64_t> counts(host.size(), sizeof(T));
  RETURN_IF_ERROR(host.AllGather(
      PayloadOf(
          absl::MakeSpan(reinterpret_cast<const uint8_t*>(&mine), sizeof(T))),
      counts,
      PayloadOf(absl::MakeSpan(reinterpret_cast<uint8_t*>(all.data()),
                               sizeof(T) * all.size()))));
  return all;
}

// The first rank's error counts, so that all return the same.
template <typename Ranks>
absl::Status FirstError(Communicator& host, const Ranks& ranks,
                        absl::string_view what) {
  for (size_t r = 0; r < ranks.size(); ++r) {
    const auto error = static_cast<cudaError_t>(ranks[r].error);
    if (error == cudaSuccess) continue;
    const std::string text = absl::StrCat(host.name(), ": rank ", r, " ", what,
                                          ": ", cudaGetErrorString(error));
    return error == cudaErrorMemoryAllocation
               ? absl::ResourceExhaustedError(text)
               : absl::UnavailableError(text);
  }
  return absl::OkStatus();
}

}  // namespace

// From a pool, which opens its memory alone to peers: with peer access for all
// memory a cudaFree() of one thread would wait for kernels of another, which
// wait for it.
absl::Status PeerMemory::AllocateForThreads(const std::vector<int>& devices,
                                            int device, int64_t num_bytes) {
  cudaMemPoolProps props = {};
  props.allocType = cudaMemAllocationTypePinned;
  props.location.type = cudaMemLocationTypeDevice;
  props.location.id = device;
  RETURN_IF_ERROR(ToStatus(cudaMemPoolCreate(&pool_, &props)));
  for (const int peer : devices) {
    if (peer == device) continue;
    cudaMemAccessDesc access = {};
    access.location.type = cudaMemLocationTypeDevice;
    access.location.id = peer;
    access.flags = cudaMemAccessFlagsProtReadWrite;
    RETURN_IF_ERROR(ToStatus(cudaMemPoolSetAccess(pool_, &access, 1)));
  }
  RETURN_IF_ERROR(ToStatus(cudaMallocFromPoolAsync(&in_pool_, num_bytes, pool_,
                                                   cudaStreamPerThread)));
  return ToStatus(cudaStreamSynchronize(cudaStreamPerThread));
}

absl::StatusOr<std::unique_ptr<PeerMemory>> PeerMemory::Map(Communicator& host,
                                                            int device,
                                                            int64_t num_bytes) {
  num_bytes = (num_bytes + kPageBytes - 1) / kPageBytes * kPageBytes;
  Place here = {};
  gethostname(here.host, sizeof(here.host) - 1);
  here.process = getpid();
  here.device = device;
  ASSIGN_OR_RETURN(const std::vector<Place> places, GatherOf(host, here));
  std::vector<int> devices;
  bool are_threads = true;
  for (size_t r = 0; r < places.size(); ++r) {
    if (std::strcmp(places[r].host, places[0].host) != 0) {
      return absl::FailedPreconditionError(absl::StrCat(
          host.name(), ": rank ", r, " is on ", places[r].host, ", rank 0 on ",
          places[0].host, "; GPUs that share experts out want one host"));
    }
    are_threads &= places[r].process == places[0].process;
    devices.push_back(places[r].device);
  }

  auto memory = std::unique_ptr<PeerMemory>(new PeerMemory);
  Block mine = {};
  void* data = nullptr;
  if (are_threads) {
    mine.error = memory->AllocateForThreads(devices, device, num_bytes).ok()
                     ? cudaSuccess
                     : cudaErrorMemoryAllocation;
    data = memory->in_pool_;
  } else {
    mine.error = cudaMalloc(&data, num_bytes);
    if (mine.error == cudaSuccess) {
      mine.error = cudaIpcGetMemHandle(&mine.handle, data);
    }
  }
  if (mine.error == cudaSuccess) {
    mine.error = cudaMemsetAsync(data, 0, num_bytes, cudaStreamPerThread);
  }
  if (mine.error == cudaSuccess) {
    mine.error = cudaStreamSynchronize(cudaStreamPerThread);
  }
  mine.address = static_cast<char*>(data);
  ASSIGN_OR_RETURN(const std::vector<Block> blocks, GatherOf(host, mine));
  RETURN_IF_ERROR(FirstError(host, blocks,
                             absl::StrCat("has no window of ", num_bytes >> 20,
                                          " MiB for its peers")));

  Block reached = {};
  for (int r = 0; r < host.size(); ++r) {
    if (are_threads || r == host.rank()) {
      memory->block_.push_back(blocks[r].address);
      continue;
    }
    void* block = nullptr;
    const cudaError_t error = cudaIpcOpenMemHandle(
        &block, blocks[r].handle, cudaIpcMemLazyEnablePeerAccess);
    if (error != cudaSuccess) {
      cudaGetLastError();
      reached.error = error;
    } else {
      memory->opened_.push_back(static_cast<char*>(block));
    }
    memory->block_.push_back(static_cast<char*>(block));
  }
  ASSIGN_OR_RETURN(const std::vector<Block> all, GatherOf(host, reached));
  RETURN_IF_ERROR(FirstError(host, all, "cannot reach its peers' memory"));
  return memory;
}

PeerMemory::~PeerMemory() {
  for (char* const block : opened_) cudaIpcCloseMemHandle(block);
  if (in_pool_ != nullptr) {
    cudaFreeAsync(in_pool_, cudaStreamPerThread);
    cudaStreamSynchronize(cudaStreamPerThread);
  }
  if (pool_ != nullptr) cudaMemPoolDestroy(pool_);
}

}  // namespace strata::gpu
