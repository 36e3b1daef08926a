// Signs of life between ranks of hosts apart (core/parallel/pulse.h), over MPI:
// a group of their own, beside what the ranks exchange.

#ifndef TRAINING_DISTRIBUTED_MPI_PULSE_LINK_H_
#define TRAINING_DISTRIBUTED_MPI_PULSE_LINK_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "core/parallel/pulse.h"
#include "training/distributed/mpi_library.h"

namespace strata {

// For one thread at a time, until MPI ends.
class MpiPulseLink : public PulseLink {
 public:
  // `group` has all ranks, stays the caller's, and carries nothing else.
  MpiPulseLink(const MpiLibrary& mpi, MPI_Comm group);
  ~MpiPulseLink() override;

  void Send(absl::Span<const int64_t> message, int to) override;
  bool Receive(absl::Span<int64_t> message) override;

 private:
  struct Message {
    std::vector<int64_t> content;
    MPI_Request request;
    bool is_under_way = false;
    bool has_failed = false;
  };

  // Also of one that failed.
  bool HasEnded(Message& message);

  const MpiLibrary& mpi_;
  const MPI_Comm group_;
  std::vector<Message> sent_;  // [ranks], the last to each.
  Message expected_;           // From any.
};

}  // namespace strata

#endif  // TRAINING_DISTRIBUTED_MPI_PULSE_LINK_H_
