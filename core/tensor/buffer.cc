#include "core/tensor/buffer.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstdint>
#include <cstring>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"

namespace strata {

Buffer::~Buffer() {
  if (data_ != nullptr) munmap(data_, num_bytes_);
}

absl::StatusOr<Buffer> Buffer::Allocate(int64_t num_bytes) {
  Buffer buffer;
  if (num_bytes == 0) return buffer;
  void* data = mmap(nullptr, num_bytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) {
    return absl::ResourceExhaustedError(absl::StrFormat(
        "no memory for %d bytes: %s", num_bytes, std::strerror(errno)));
  }
  // Fewer TLB misses in long rows; harmless where huge pages are off.
  madvise(data, num_bytes, MADV_HUGEPAGE);
  buffer.data_ = static_cast<char*>(data);
  buffer.num_bytes_ = num_bytes;
  return buffer;
}

}  // namespace strata
