// Copies blocks of the caches, where two sequences part.
//
//   ASSIGN_OR_RETURN(auto copier, BlockCopier::Create(backend, state, 512));
//   RETURN_IF_ERROR(copier->Copy(copies));
//
// On the host where kernels see the same memory; else by a program, so that
// nothing but row numbers goes to the device.

#ifndef SERVING_ENGINE_BLOCK_COPIER_H_
#define SERVING_ENGINE_BLOCK_COPIER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/runtime/backend.h"
#include "core/runtime/program.h"
#include "core/runtime/state_store.h"
#include "serving/engine/kv_cache.h"

namespace strata {

class BlockCopier {
 public:
  // Of all states of `state` that are called "cache.", each of `num_blocks`
  // blocks of rows. Both must outlive it. `by_program`: even where the host
  // could, for tests.
  static absl::StatusOr<std::unique_ptr<BlockCopier>> Create(
      Backend& backend, StateStore& state, int64_t num_blocks,
      bool by_program = false);

  // In the order of the list.
  absl::Status Copy(absl::Span<const BlockCopy> copies);

 private:
  BlockCopier(StateStore& state, int64_t num_blocks)
      : state_(state), num_blocks_(num_blocks) {}

  absl::Status Compile(Backend& backend);
  void CopyOnHost(absl::Span<const BlockCopy> copies);

  StateStore& state_;
  const int64_t num_blocks_;
  std::vector<std::string> caches_;
  int64_t block_rows_ = 0;
  std::unique_ptr<Program> program_;  // Of one block, in all caches.
};

}  // namespace strata

#endif  // SERVING_ENGINE_BLOCK_COPIER_H_
