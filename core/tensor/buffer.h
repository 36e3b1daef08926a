// Page-aligned, zeroed memory that frees itself.

#ifndef CORE_TENSOR_BUFFER_H_
#define CORE_TENSOR_BUFFER_H_

#include <cstdint>
#include <utility>

#include "absl/status/statusor.h"

namespace strata {

// Pages are taken from the system when first touched, so a buffer sized for a
// worst case costs only what is used of it.
class Buffer {
 public:
  Buffer() = default;
  Buffer(Buffer&& other) noexcept { *this = std::move(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(num_bytes_, other.num_bytes_);
    return *this;
  }
  ~Buffer();

  // Returns RESOURCE_EXHAUSTED if the system refuses `num_bytes`.
  static absl::StatusOr<Buffer> Allocate(int64_t num_bytes);

  char* data() const { return data_; }
  int64_t num_bytes() const { return num_bytes_; }

 private:
  char* data_ = nullptr;
  int64_t num_bytes_ = 0;
};

}  // namespace strata

#endif  // CORE_TENSOR_BUFFER_H_
