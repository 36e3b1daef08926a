// Plain structs between ranks, by the host's communicator.

#ifndef CUDA_NCCL_GATHER_OF_H_
#define CUDA_NCCL_GATHER_OF_H_

#include <cstdint>
#include <type_traits>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/base/status_macros.h"
#include "core/parallel/communicator.h"

namespace strata::gpu {

// A payload of the bytes of `object`, which it does not own.
template <typename T>
Payload PayloadOfStruct(T& object) {
  static_assert(std::is_trivially_copyable_v<T>);
  return PayloadOf(
      absl::MakeSpan(reinterpret_cast<uint8_t*>(&object), sizeof(T)));
}

// [ranks] `mine` of each.
template <typename T>
absl::StatusOr<std::vector<T>> GatherOf(Communicator& host, T mine) {
  std::vector<T> all(host.size());
  const std::vector<int64_t> counts(host.size(), sizeof(T));
  RETURN_IF_ERROR(host.AllGather(
      PayloadOfStruct(mine), counts,
      PayloadOf(absl::MakeSpan(reinterpret_cast<uint8_t*>(all.data()),
                               sizeof(T) * all.size()))));
  return all;
}

}  // namespace strata::gpu

#endif  // CUDA_NCCL_GATHER_OF_H_
