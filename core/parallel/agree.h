// What every rank of a group is to know of all: whether they failed, a text of
// one of them, and whether they were started alike.

#ifndef CORE_PARALLEL_AGREE_H_
#define CORE_PARALLEL_AGREE_H_

#include <string>
#include <vector>

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

// The text of each rank, on all, up to its first byte 0 or its 127th. To be
// called by every rank.
absl::StatusOr<std::vector<std::string>> TextsOf(const std::string& text,
                                                 Communicator& ranks);

// The name of each rank's host, likewise.
absl::StatusOr<std::vector<std::string>> HostsOf(Communicator& ranks);

struct Setting {
  std::string name;   // "--dp"
  std::string value;  // One line or several.
};

// To be called by every rank, with settings of the same names in the same
// order.
//
// Returns, on all ranks, INVALID_ARGUMENT if one's are not those of rank 0,
// which names the first such rank, its first such setting and both values (of
// several lines the first that differ), and the communicator's errors.
absl::Status CheckSame(const std::vector<Setting>& settings,
                       Communicator& ranks);

}  // namespace strata

#endif  // CORE_PARALLEL_AGREE_H_
