#include "core/testing/allocation_counter.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>

#include "core/base/check.h"

namespace strata {
namespace {

std::atomic<bool> counting{false};
std::atomic<int64_t> num_counted{0};
std::atomic<size_t> first_counted_bytes{0};

void Count(size_t bytes) {
  if (!counting.load(std::memory_order_relaxed)) return;
  if (num_counted.fetch_add(1) == 0) first_counted_bytes.store(bytes);
}

}  // namespace

AllocationCounter::AllocationCounter() {
  CHECK(!counting) << "two counters at once";
  num_counted = 0;
  first_counted_bytes = 0;
  counting = true;
}

AllocationCounter::~AllocationCounter() { counting = false; }

int64_t AllocationCounter::count() const { return num_counted; }

size_t AllocationCounter::first_bytes() const { return first_counted_bytes; }

}  // namespace strata

extern "C" {

void* mmap(void* address, size_t length, int protection, int flags, int file,
           off_t offset) noexcept {
  strata::Count(length);
  return reinterpret_cast<void*>(
      syscall(SYS_mmap, address, length, protection, flags, file, offset));
}

#ifndef __SANITIZE_ADDRESS__

// What malloc and its kin are in glibc.
void* __libc_malloc(size_t size);
void* __libc_calloc(size_t count, size_t size);
void* __libc_realloc(void* old, size_t size);
void* __libc_memalign(size_t alignment, size_t size);

void* malloc(size_t size) noexcept {
  strata::Count(size);
  return __libc_malloc(size);
}

void* calloc(size_t count, size_t size) noexcept {
  strata::Count(count * size);
  return __libc_calloc(count, size);
}

void* realloc(void* old, size_t size) noexcept {
  strata::Count(size);
  return __libc_realloc(old, size);
}

void* memalign(size_t alignment, size_t size) noexcept {
  strata::Count(size);
  return __libc_memalign(alignment, size);
}

void* aligned_alloc(size_t alignment, size_t size) noexcept {
  return memalign(alignment, size);
}

int posix_memalign(void** result, size_t alignment, size_t size) noexcept {
  *result = memalign(alignment, size);
  return *result == nullptr ? ENOMEM : 0;
}

#endif  // __SANITIZE_ADDRESS__

}  // extern "C"
