// Device memory with a twin in the host's address space.

#ifndef CUDA_RUNTIME_DEVICE_MEMORY_H_
#define CUDA_RUNTIME_DEVICE_MEMORY_H_

#include <cstdint>
#include <map>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/runtime/backend.h"

namespace strata::gpu {

// All blocks of one backend, by their host addresses. Blocks hold on to it, so
// it lives as long as the last of them.
class TwinMap {
 public:
  // The device address of a host address inside a block; null if in none.
  char* DeviceOf(const void* host) const;

  int64_t num_bytes() const { return num_bytes_; }  // On the device.
  int64_t num_blocks() const { return static_cast<int64_t>(blocks_.size()); }

 private:
  friend class TwinMemory;
  struct Block {
    char* device = nullptr;
    int64_t num_bytes = 0;
  };

  std::map<const char*, Block> blocks_;  // By host address.
  int64_t num_bytes_ = 0;
};

// A zeroed block on the device. Its twin on the host is reserved address space
// of zeros, whose pages exist once they are touched.
class TwinMemory : public Memory {
 public:
  // Returns RESOURCE_EXHAUSTED if the device has no room, saying how much was
  // wanted, is free and is taken; UNAVAILABLE if there is no device.
  static absl::StatusOr<std::unique_ptr<TwinMemory>> Allocate(
      int64_t num_bytes, std::shared_ptr<TwinMap> map);
  // A twin on the device for host memory that is not ours, such as a mapped
  // file; nothing is copied.
  static absl::StatusOr<std::unique_ptr<TwinMemory>> Mirror(
      void* host, int64_t num_bytes, std::shared_ptr<TwinMap> map);
  ~TwinMemory() override;

  char* data() const override { return host_; }

 private:
  TwinMemory(char* host, bool owns_host, int64_t num_bytes,
             std::shared_ptr<TwinMap> map)
      : host_(host),
        owns_host_(owns_host),
        num_bytes_(num_bytes),
        map_(std::move(map)) {}

  static absl::StatusOr<std::unique_ptr<TwinMemory>> Add(
      char* host, bool owns_host, int64_t num_bytes,
      std::shared_ptr<TwinMap> map);

  char* host_;
  bool owns_host_;
  int64_t num_bytes_;
  std::shared_ptr<TwinMap> map_;
};

}  // namespace strata::gpu

#endif  // CUDA_RUNTIME_DEVICE_MEMORY_H_
