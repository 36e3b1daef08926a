// Rows of states from rank to rank: what moving an expert is.

#ifndef TRAINING_BALANCE_MOVE_ROWS_H_
#define TRAINING_BALANCE_MOVE_ROWS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "core/parallel/communicator.h"
#include "core/runtime/state_store.h"

namespace strata {

// The bytes of a slot, over the states `names`, each [slots of a rank, ...].
int64_t BytesOfSlot(const std::vector<std::string>& names,
                    const StateStore& state);

// Each slot s of the ranks, origin.size() / ranks of each, takes in all of
// `names` what slot origin[s] held before. Every rank of the group calls it
// with the same origins and names; one message to each other rank.
//
// Rows never pass the host where kernels have memory of their own: the backend
// has room for what is sent and what comes, for the time of the call. What
// Get() gave out before is of no use after it.
//
// Returns the communicator's errors, and RESOURCE_EXHAUSTED if there is no
// room; the states may then be anything.
absl::Status MoveRows(absl::Span<const int32_t> origin,
                      const std::vector<std::string>& names,
                      Communicator& ranks, StateStore& state);

}  // namespace strata

#endif  // TRAINING_BALANCE_MOVE_ROWS_H_
