#include "core/parallel/collective_checks.h"

#include <cstdint>
#include <numeric>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "core/base/status_macros.h"
#include "core/parallel/communicator.h"
#include "core/tensor/dtype.h"

namespace strata {
namespace {

template <typename... Parts>
absl::Status Wrong(const Communicator& group, absl::string_view call,
                   const Parts&... parts) {
  return absl::InvalidArgumentError(
      absl::StrCat(group.name(), ": ", call, ": ", parts...));
}

// That `counts` are one a rank, and `data` has as many elements.
absl::Status CheckCounts(const Communicator& group, absl::string_view call,
                         absl::string_view what,
                         absl::Span<const int64_t> counts,
                         const Payload& data) {
  if (static_cast<int>(counts.size()) != group.size()) {
    return Wrong(group, call, counts.size(), " counts; want ", group.size(),
                 ", one a rank");
  }
  for (const int64_t count : counts) {
    if (count < 0) {
      return Wrong(group, call, "a count is ", count, "; want 0 or more");
    }
  }
  const int64_t sum = std::accumulate(counts.begin(), counts.end(), int64_t{0});
  if (sum != data.count) {
    return Wrong(group, call, what, " has ", data.count,
                 " elements; the counts sum to ", sum);
  }
  return absl::OkStatus();
}

// That a rank's own piece is as long as its count says, and of one dtype.
absl::Status CheckPiece(const Communicator& group, absl::string_view call,
                        absl::Span<const int64_t> counts, const Payload& piece,
                        const Payload& whole) {
  if (piece.dtype != whole.dtype) {
    return Wrong(group, call, "in and out are ", Name(piece.dtype), " and ",
                 Name(whole.dtype), "; want one dtype");
  }
  if (piece.count != counts[group.rank()]) {
    return Wrong(group, call, "rank ", group.rank(), " has ", piece.count,
                 " elements; its count is ", counts[group.rank()]);
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckRank(const Communicator& group, absl::string_view call,
                       int rank) {
  if (rank >= 0 && rank < group.size()) return absl::OkStatus();
  return Wrong(group, call, "rank ", rank, "; want 0 to ", group.size() - 1);
}

absl::Status CheckReducible(const Communicator& group, absl::string_view call,
                            const Payload& data) {
  if (data.dtype == DType::kF32 || data.dtype == DType::kF64 ||
      data.dtype == DType::kI32) {
    return absl::OkStatus();
  }
  return Wrong(group, call, "dtype ", Name(data.dtype),
               "; want F32, F64 or I32");
}

absl::Status CheckAllGather(const Communicator& group, const Payload& in,
                            absl::Span<const int64_t> counts,
                            const Payload& out) {
  RETURN_IF_ERROR(CheckCounts(group, "all_gather", "out", counts, out));
  return CheckPiece(group, "all_gather", counts, in, out);
}

absl::Status CheckReduceScatter(const Communicator& group, const Payload& in,
                                absl::Span<const int64_t> counts,
                                const Payload& out) {
  RETURN_IF_ERROR(CheckReducible(group, "reduce_scatter", in));
  RETURN_IF_ERROR(CheckCounts(group, "reduce_scatter", "in", counts, in));
  return CheckPiece(group, "reduce_scatter", counts, out, in);
}

absl::Status CheckAllToAll(const Communicator& group, const Payload& in,
                           absl::Span<const int64_t> send,
                           absl::Span<const int64_t> receive,
                           const Payload& out) {
  RETURN_IF_ERROR(CheckCounts(group, "all_to_all", "in", send, in));
  RETURN_IF_ERROR(CheckCounts(group, "all_to_all", "out", receive, out));
  if (in.dtype == out.dtype) return absl::OkStatus();
  return Wrong(group, "all_to_all", "in and out are ", Name(in.dtype), " and ",
               Name(out.dtype), "; want one dtype");
}

absl::Status LateError(const Communicator& group, absl::string_view call,
                       const std::vector<int>& missing,
                       absl::Duration timeout) {
  const std::string waited = absl::FormatDuration(timeout);
  if (missing.empty()) {
    return absl::DeadlineExceededError(
        absl::StrCat(group.name(), ": rank ", group.rank(), " waited ", waited,
                     " in ", call, " for the other ranks"));
  }
  return absl::DeadlineExceededError(absl::StrCat(
      group.name(), ": ", call, ": rank", missing.size() > 1 ? "s " : " ",
      absl::StrJoin(missing, ", "), missing.size() > 1 ? " have" : " has",
      " not come in ", waited));
}

absl::Status SizeError(const Communicator& group, int from, int64_t num_bytes,
                       const Payload& data) {
  return Wrong(group, "receive", "rank ", from, " sent ", num_bytes,
               " bytes to rank ", group.rank(), ", which expects ",
               data.num_bytes());
}

}  // namespace strata
