// What every rank of a group is to know of all: whether they failed, and a text
// of one of them.

#ifndef CORE_PARALLEL_AGREE_H_
#define CORE_PARALLEL_AGREE_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/parallel/communicator.h"

namespace strata {

struct Agreement {
  // The same on all ranks: OK if each gave OK, else the error of the first that
  // gave one, which begins with "rank 2: " unless that is rank 0.
  absl::Status status;
};

// To be called by every rank. Returns the communicator's errors.
absl::StatusOr<Agreement> Agree(const absl::Status& status,
                                Communicator& ranks);

// The text of rank `root`, on all. To be called by every rank.
absl::StatusOr<std::string> TextOf(int root, const std::string& text,
                                   Communicator& ranks);

}  // namespace strata

#endif  // CORE_PARALLEL_AGREE_H_
