#include "training/distributed/mpi_pulse_link.h"

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "training/distributed/mpi_library.h"

namespace strata {
namespace {

constexpr int kTag = 1;

}  // namespace

MpiPulseLink::MpiPulseLink(const MpiLibrary& mpi, MPI_Comm group)
    : mpi_(mpi), group_(group) {
  InTurn(mpi_.comm_set_errhandler, group_, mpi_.errors_return);
  int size = 0;
  InTurn(mpi_.comm_size, group_, &size);
  sent_.resize(size);
}

MpiPulseLink::~MpiPulseLink() {
  if (expected_.is_under_way) {
    InTurn(mpi_.cancel, &expected_.request);
    sent_.push_back(std::move(expected_));
  }
  for (Message& message : sent_) {
    if (HasEnded(message)) continue;
    InTurn(mpi_.request_free, &message.request);
    new std::vector<int64_t>(std::move(message.content));  // MPI may read it.
  }
}

void MpiPulseLink::Send(absl::Span<const int64_t> message, int to) {
  Message& last = sent_[to];
  if (!HasEnded(last)) return;
  last.content.assign(message.begin(), message.end());
  last.is_under_way =
      InTurn(mpi_.isend, last.content.data(),
             static_cast<int>(last.content.size() * sizeof(int64_t)), mpi_.byte,
             to, kTag, group_, &last.request) == MPI_SUCCESS;
}

bool MpiPulseLink::Receive(absl::Span<int64_t> message) {
  const bool has_come =
      expected_.is_under_way && HasEnded(expected_) && !expected_.has_failed;
  if (has_come) {
    std::copy(expected_.content.begin(), expected_.content.end(),
              message.begin());
  }
  if (!expected_.is_under_way && !expected_.has_failed) {
    expected_.content.resize(message.size());
    expected_.is_under_way =
        InTurn(mpi_.irecv, expected_.content.data(),
               static_cast<int>(message.size() * sizeof(int64_t)), mpi_.byte,
               MPI_ANY_SOURCE, kTag, group_, &expected_.request) == MPI_SUCCESS;
  }
  return has_come;
}

bool MpiPulseLink::HasEnded(Message& message) {
  if (!message.is_under_way) return true;
  int done = 0;
  message.has_failed = InTurn(mpi_.test, &message.request, &done,
                              MPI_STATUS_IGNORE) != MPI_SUCCESS;
  message.is_under_way = done == 0 && !message.has_failed;
  return !message.is_under_way;
}

}  // namespace strata
