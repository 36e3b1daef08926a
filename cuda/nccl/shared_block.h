// A block of a rank's device memory that other ranks of its host open: what
// they read and write of it goes over NVLink.

#ifndef CUDA_NCCL_SHARED_BLOCK_H_
#define CUDA_NCCL_SHARED_BLOCK_H_

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {

// Where a rank is. Of plain bytes, as the structs below: ranks tell each other.
struct RankPlace {
  char host[64];
  int64_t process;
  int32_t device;
  int32_t padding;
};

// This process', with `device`.
RankPlace PlaceHere(int device);
bool AreOnOneHost(const RankPlace& a, const RankPlace& b);
inline bool AreThreads(const RankPlace& a, const RankPlace& b) {
  return AreOnOneHost(a, b) && a.process == b.process;
}

// What another rank opens a block by.
struct SharedBlockKey {
  char* address;              // For threads of the owner's process,
  cudaIpcMemHandle_t handle;  // and for other processes.
};

class SharedBlock {
 public:
  // Zeroed, on `here`, which is the current device, for ranks at `peers`: all
  // threads of this process, or all of its host and in processes of their own.
  //
  // Returns RESOURCE_EXHAUSTED if there is no room.
  static absl::StatusOr<std::unique_ptr<SharedBlock>> Allocate(
      const RankPlace& here, absl::Span<const RankPlace> peers,
      int64_t num_bytes);
  // The others must have come to the end of what they do with it. What other
  // processes have opened goes with the process.
  ~SharedBlock();

  char* data() const { return data_; }
  const SharedBlockKey& key() const { return key_; }

 private:
  SharedBlock() = default;

  absl::Status AllocateForThreads(const RankPlace& here,
                                  absl::Span<const RankPlace> peers,
                                  int64_t num_bytes);

  char* data_ = nullptr;
  cudaMemPool_t pool_ = nullptr;  // Where the others are threads.
  SharedBlockKey key_ = {};
};

class OpenedBlock {
 public:
  // `is_thread`: the owner is one of this process.
  //
  // Returns UNAVAILABLE if the owner's GPU cannot be reached.
  static absl::StatusOr<std::unique_ptr<OpenedBlock>> Open(
      const SharedBlockKey& key, bool is_thread);
  ~OpenedBlock();

  char* data() const { return data_; }

 private:
  OpenedBlock() = default;

  char* data_ = nullptr;
  bool is_mapped_ = false;
};

}  // namespace strata::gpu

#endif  // CUDA_NCCL_SHARED_BLOCK_H_
