#include <cstdint>
#include <map>
#include <mutex>
#include <tuple>

#include "cuda/kernels/counter_of.h"
#include "cuda_runtime.h"

namespace strata::gpu {
namespace {

constexpr int kCounters = 16384;

// Of each device, zeros where its context begins.
__device__ uint32_t counters[kCounters];

// Device, then 0 and the number of a stream, or that of a capture and a stream
// of it. Such numbers are given once in a process; handles are not, but those
// of one capture live as long as it. (A stream that is captured from must not
// be asked for its number.)
using Key = std::tuple<int, unsigned long long, unsigned long long>;

struct Counters {
  std::mutex mutex;
  std::map<int, uint32_t*> first;  // By device.
  std::map<int, int> used;
  std::map<Key, uint32_t*> given;
};

Counters& All() {
  static auto* const all = new Counters;
  return *all;
}

uint32_t* First(Counters& all, int device) {
  uint32_t*& first = all.first[device];
  if (first != nullptr) return first;
  void* address = nullptr;
  if (cudaGetSymbolAddress(&address, counters) != cudaSuccess) return nullptr;
  return first = static_cast<uint32_t*>(address);
}

}  // namespace

uint32_t* CounterOf(cudaStream_t stream) {
  int device = 0;
  unsigned long long id = 0, capture = 0;
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaStreamGetCaptureInfo(stream, &status, &capture) != cudaSuccess) {
    cudaGetLastError();  // Which is no fault of the caller's.
    return nullptr;
  }
  if (status == cudaStreamCaptureStatusActive) {
    id = reinterpret_cast<uintptr_t>(stream);
  } else if (capture = 0; cudaStreamGetId(stream, &id) != cudaSuccess) {
    cudaGetLastError();
    return nullptr;
  }
  Counters& all = All();
  const std::lock_guard<std::mutex> lock(all.mutex);
  uint32_t*& counter = all.given[{device, capture, id}];
  if (counter != nullptr) return counter;
  uint32_t* const first = First(all, device);
  if (first == nullptr || all.used[device] == kCounters) return nullptr;
  return counter = first + all.used[device]++;
}

}  // namespace strata::gpu
