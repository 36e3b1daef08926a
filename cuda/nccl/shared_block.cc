#include "cuda/nccl/shared_block.h"

#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <memory>

#include "absl/algorithm/container.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "core/base/status_macros.h"
#include "cuda/runtime/status.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {
namespace {

// A smaller allocation may share its pages with others, which a handle would
// then give away too.
constexpr int64_t kPageBytes = int64_t{2} << 20;

}  // namespace

RankPlace PlaceHere(int device) {
  RankPlace here = {};
  gethostname(here.host, sizeof(here.host) - 1);
  here.process = getpid();
  here.device = device;
  return here;
}

bool AreOnOneHost(const RankPlace& a, const RankPlace& b) {
  return std::strcmp(a.host, b.host) == 0;
}

// From a pool, which opens its memory alone to peers: with peer access for all
// memory a cudaFree() of one thread would wait for kernels of another, which
// wait for it.
absl::Status SharedBlock::AllocateForThreads(const RankPlace& here,
                                             absl::Span<const RankPlace> peers,
                                             int64_t num_bytes) {
  cudaMemPoolProps props = {};
  props.allocType = cudaMemAllocationTypePinned;
  props.location.type = cudaMemLocationTypeDevice;
  props.location.id = here.device;
  RETURN_IF_ERROR(ToStatus(cudaMemPoolCreate(&pool_, &props)));
  for (const RankPlace& peer : peers) {
    if (peer.device == here.device) continue;
    cudaMemAccessDesc access = {};
    access.location.type = cudaMemLocationTypeDevice;
    access.location.id = peer.device;
    access.flags = cudaMemAccessFlagsProtReadWrite;
    RETURN_IF_ERROR(ToStatus(cudaMemPoolSetAccess(pool_, &access, 1)));
  }
  void* data = nullptr;
  RETURN_IF_ERROR(ToStatus(
      cudaMallocFromPoolAsync(&data, num_bytes, pool_, cudaStreamPerThread)));
  data_ = static_cast<char*>(data);
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<SharedBlock>> SharedBlock::Allocate(
    const RankPlace& here, absl::Span<const RankPlace> peers,
    int64_t num_bytes) {
  num_bytes = (num_bytes + kPageBytes - 1) / kPageBytes * kPageBytes;
  auto block = std::unique_ptr<SharedBlock>(new SharedBlock);
  if (absl::c_all_of(peers, [&](const RankPlace& peer) {
        return AreThreads(peer, here);
      })) {
    RETURN_IF_ERROR(block->AllocateForThreads(here, peers, num_bytes));
  } else {
    void* data = nullptr;
    RETURN_IF_ERROR(ToStatus(cudaMalloc(&data, num_bytes)));
    block->data_ = static_cast<char*>(data);
    RETURN_IF_ERROR(ToStatus(cudaIpcGetMemHandle(&block->key_.handle, data)));
  }
  block->key_.address = block->data_;
  RETURN_IF_ERROR(ToStatus(
      cudaMemsetAsync(block->data_, 0, num_bytes, cudaStreamPerThread)));
  RETURN_IF_ERROR(ToStatus(cudaStreamSynchronize(cudaStreamPerThread)));
  return block;
}

SharedBlock::~SharedBlock() {
  // Memory that another process has open must not be freed.
  if (pool_ == nullptr) return;
  if (data_ != nullptr) {
    cudaFreeAsync(data_, cudaStreamPerThread);
    cudaStreamSynchronize(cudaStreamPerThread);
  }
  cudaMemPoolDestroy(pool_);
}

absl::StatusOr<std::unique_ptr<OpenedBlock>> OpenedBlock::Open(
    const SharedBlockKey& key, bool is_thread) {
  auto opened = std::unique_ptr<OpenedBlock>(new OpenedBlock);
  opened->data_ = key.address;
  if (is_thread) return opened;
  void* data = nullptr;
  const cudaError_t error =
      cudaIpcOpenMemHandle(&data, key.handle, cudaIpcMemLazyEnablePeerAccess);
  if (error != cudaSuccess) {
    cudaGetLastError();
    return absl::UnavailableError(absl::StrCat("cannot reach a peer's memory: ",
                                               cudaGetErrorString(error)));
  }
  opened->data_ = static_cast<char*>(data);
  opened->is_mapped_ = true;
  return opened;
}

OpenedBlock::~OpenedBlock() {
  if (is_mapped_) cudaIpcCloseMemHandle(data_);
}

}  // namespace strata::gpu
