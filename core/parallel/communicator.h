// A group of ranks that exchange data: threads of one process
// (core/parallel/thread_communicator.h), or processes
// (training/distributed/mpi_communicator.h).
//
//   rank 0 ----+               every rank of the group makes the same calls in
//   rank 1 ----+-- AllReduce   the same order, with counts that agree; Send and
//   rank 2 ----+               Receive are for two
//
// A group is for one thread at a time; of a rank, several groups may be called
// at once, each by a thread of its own.
//
// Buffers are the host's. Sums are added in an order that the number of ranks
// and elements alone fix: a run equals its repetition bit for bit, and all
// ranks hold the same bits.
//
// Every call waits at most `timeout` (of the group's creation) for the others.
// Errors: DEADLINE_EXCEEDED if they did not come, INVALID_ARGUMENT if calls do
// not agree, as far as that can be seen; each names the group and the call, and
// the ranks where they are known. After an error the group is of no use: every
// further call returns it.

#ifndef CORE_PARALLEL_COMMUNICATOR_H_
#define CORE_PARALLEL_COMMUNICATOR_H_

#include <cstdint>
#include <memory>
#include <string>
#include <type_traits>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/tensor/dtype.h"

namespace strata {

// `count` elements behind each other.
struct Payload {
  void* data = nullptr;
  int64_t count = 0;
  DType dtype = DType::kF32;

  int64_t num_bytes() const { return count * SizeOf(dtype); }
};

template <typename T>
Payload PayloadOf(absl::Span<T> span) {
  return {const_cast<std::remove_const_t<T>*>(span.data()),
          static_cast<int64_t>(span.size()), DTypeOf<std::remove_const_t<T>>()};
}

enum class ReduceOp { kSum, kMax };

class Communicator {
 public:
  // Splits no further: a rank that belongs to no group of the split.
  static constexpr int kNoColor = -1;

  virtual ~Communicator() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;
  // Of error messages: "world", "dp".
  virtual absl::string_view name() const = 0;

  // data = op over ranks of data: F32, F64 or I32.
  virtual absl::Status AllReduce(const Payload& data, ReduceOp op) = 0;

  // out = the ranks' `in`, in the order of ranks; counts[r] is that of rank r,
  // which may be 0. Of any dtype.
  virtual absl::Status AllGather(const Payload& in,
                                 absl::Span<const int64_t> counts,
                                 const Payload& out) = 0;

  // out = piece rank() of the sum over ranks of `in`, whose pieces have
  // counts[r] elements.
  virtual absl::Status ReduceScatter(const Payload& in,
                                     absl::Span<const int64_t> counts,
                                     const Payload& out) = 0;

  // Piece r of `in`, of send[r] elements, goes to rank r; piece r of `out`, of
  // receive[r] elements, comes from it.
  virtual absl::Status AllToAll(const Payload& in,
                                absl::Span<const int64_t> send,
                                absl::Span<const int64_t> receive,
                                const Payload& out) = 0;

  // data = that of rank `root`.
  virtual absl::Status Broadcast(const Payload& data, int root) = 0;

  // Sends a copy: returns without waiting for the receiver. Messages between
  // two ranks arrive in the order of their sending.
  virtual absl::Status Send(const Payload& data, int to) = 0;
  virtual absl::Status Receive(const Payload& data, int from) = 0;

  virtual absl::Status Barrier() = 0;

  // The group of all ranks that gave the same `color`, in the order of `key`,
  // then of rank; null for kNoColor.
  virtual absl::StatusOr<std::unique_ptr<Communicator>> Split(
      int color, int key, absl::string_view name) = 0;
};

}  // namespace strata

#endif  // CORE_PARALLEL_COMMUNICATOR_H_
