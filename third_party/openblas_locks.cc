// Makes serial OpenBLAS safe to call from several threads.
//
// Every product borrows a work buffer from one table in OpenBLAS. Debian's
// serial build takes and returns buffers without a lock, so that two threads
// can get the same one and spoil each other's product (about one small product
// in a thousand). The linker's --wrap sends the two calls through here.

#include <mutex>

extern "C" {

void* __real_blas_memory_alloc(int position);
void __real_blas_memory_free(void* buffer);

}  // extern "C"

namespace {

std::mutex& TableMutex() {
  static std::mutex mutex;
  return mutex;
}

}  // namespace

extern "C" {

void* __wrap_blas_memory_alloc(int position) {
  const std::lock_guard<std::mutex> lock(TableMutex());
  return __real_blas_memory_alloc(position);
}

void __wrap_blas_memory_free(void* buffer) {
  const std::lock_guard<std::mutex> lock(TableMutex());
  __real_blas_memory_free(buffer);
}

}  // extern "C"
