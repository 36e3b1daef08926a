#include "training/distributed/mpi_communicator.h"

#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <list>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "core/base/status_macros.h"
#include "core/parallel/collective_checks.h"
#include "core/parallel/combine.h"
#include "core/parallel/communicator.h"
#include "core/parallel/pulse.h"
#include "core/parallel/rank_wait.h"
#include "core/tensor/dtype.h"
#include "training/distributed/deadline.h"
#include "training/distributed/mpi_library.h"
#include "training/distributed/mpi_pulse_link.h"

namespace strata {
namespace {

// Elements of one call: MPI counts in int.
constexpr int64_t kMaxCount = std::numeric_limits<int>::max();
constexpr int kMessageTag = 1;
// Ranks that start on a busy machine are later to meet than in a step.
constexpr absl::Duration kStartingTime = absl::Seconds(60);

// How often ranks of several hosts exchange signs of life while they wait:
// often enough to have passed all hosts long before a time-out, and cheaply.
constexpr int kBeatsOfTimeout = 64;
constexpr absl::Duration kShortestBeat = absl::Milliseconds(20);
constexpr absl::Duration kLongestBeat = absl::Seconds(1);

// Counts and where their pieces begin, in bytes or elements of `scale`.
struct Pieces {
  std::vector<int> counts, offsets;

  static absl::StatusOr<Pieces> Of(absl::Span<const int64_t> counts,
                                   int64_t scale) {
    Pieces pieces;
    int64_t offset = 0;
    for (const int64_t count : counts) {
      if (offset + count * scale > kMaxCount) {
        return absl::InvalidArgumentError(
            absl::StrCat("a message ends at element ", offset + count * scale,
                         "; MPI counts to ", kMaxCount));
      }
      pieces.counts.push_back(static_cast<int>(count * scale));
      pieces.offsets.push_back(static_cast<int>(offset));
      offset += count * scale;
    }
    return pieces;
  }
};

// Where what is sent begins. Open MPI takes equal addresses for a call in
// place, also those of two empty buffers; that is another algorithm, which with
// nothing to do takes no part, and then the group's next call never ends.
void* SourceOf(const Payload& in) {
  static char nothing;
  return in.count == 0 ? &nothing : in.data;
}

class MpiCommunicator : public Communicator {
 public:
  MpiCommunicator(const MpiLibrary& mpi, MPI_Comm group, bool owned,
                  absl::Duration timeout, absl::string_view name)
      : mpi_(mpi),
        group_(group),
        owned_(owned),
        timeout_(timeout),
        name_(name) {
    InTurn(mpi_.comm_rank, group, &rank_);
    InTurn(mpi_.comm_size, group, &size_);
    InTurn(mpi_.comm_set_errhandler, group, mpi_.errors_return);
  }

  ~MpiCommunicator() override {
    // What is under way is read from these buffers.
    const absl::Time end = absl::Now() + timeout_;
    while (!pending_.empty() && absl::Now() < end) Reap();
    if (!pending_.empty()) {
      for (Pending& pending : pending_) {
        new std::string(std::move(pending.bytes));  // MPI may read it for ever.
      }
      return;
    }
    if (owned_ && broken_.ok()) InTurn(mpi_.comm_free, &group_);
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  absl::string_view name() const override { return name_; }

  absl::Status AllReduce(const Payload& data, ReduceOp op) override {
    RETURN_IF_ERROR(CheckReducible(*this, "all_reduce", data));
    char* at = static_cast<char*>(data.data);
    for (int64_t left = data.count; left > 0;) {
      const int64_t n = std::min(left, int64_t{1} << 30);
      MPI_Request request;
      RETURN_IF_ERROR(Do(
          "all_reduce", request,
          InTurn(mpi_.iallreduce, MPI_IN_PLACE, at, static_cast<int>(n),
                 TypeOf(data.dtype), op == ReduceOp::kSum ? mpi_.sum : mpi_.max,
                 group_, &request)));
      at += n * SizeOf(data.dtype);
      left -= n;
    }
    return absl::OkStatus();
  }

  absl::Status AllGather(const Payload& in, absl::Span<const int64_t> counts,
                         const Payload& out) override {
    RETURN_IF_ERROR(CheckAllGather(*this, in, counts, out));
    ASSIGN_OR_RETURN(const Pieces pieces, Pieces::Of(counts, SizeOf(in.dtype)));
    MPI_Request request;
    return Do("all_gather", request,
              InTurn(mpi_.iallgatherv, SourceOf(in), pieces.counts[rank_],
                     mpi_.byte, out.data, pieces.counts.data(),
                     pieces.offsets.data(), mpi_.byte, group_, &request));
  }

  // An exchange of pieces, summed in the order of ranks: as many bytes as a
  // ring. Open MPI's own that does not wait sums everything at the first rank.
  absl::Status ReduceScatter(const Payload& in,
                             absl::Span<const int64_t> counts,
                             const Payload& out) override {
    RETURN_IF_ERROR(CheckReduceScatter(*this, in, counts, out));
    const int64_t bytes = out.num_bytes();
    std::vector<char> pieces(size_ * bytes);
    const std::vector<int64_t> own(size_, out.count);
    RETURN_IF_ERROR(AllToAll(in, counts, own,
                             {pieces.data(), size_ * out.count, in.dtype}));
    char* const sum = static_cast<char*>(out.data);
    std::copy_n(pieces.data(), bytes, sum);
    for (int r = 1; r < size_; ++r) {
      Combine(pieces.data() + r * bytes, out.count, in.dtype, ReduceOp::kSum,
              sum);
    }
    return absl::OkStatus();
  }

  absl::Status AllToAll(const Payload& in, absl::Span<const int64_t> send,
                        absl::Span<const int64_t> receive,
                        const Payload& out) override {
    RETURN_IF_ERROR(CheckAllToAll(*this, in, send, receive, out));
    const int64_t width = SizeOf(in.dtype);
    ASSIGN_OR_RETURN(const Pieces from, Pieces::Of(send, width));
    ASSIGN_OR_RETURN(const Pieces to, Pieces::Of(receive, width));
    MPI_Request request;
    return Do("all_to_all", request,
              InTurn(mpi_.ialltoallv, SourceOf(in), from.counts.data(),
                     from.offsets.data(), mpi_.byte, out.data, to.counts.data(),
                     to.offsets.data(), mpi_.byte, group_, &request));
  }

  absl::Status Broadcast(const Payload& data, int root) override {
    RETURN_IF_ERROR(CheckRank(*this, "broadcast", root));
    ASSIGN_OR_RETURN(const Pieces all, Pieces::Of({data.num_bytes()}, 1));
    MPI_Request request;
    return Do("broadcast", request,
              InTurn(mpi_.ibcast, data.data, all.counts[0], mpi_.byte, root,
                     group_, &request));
  }

  absl::Status Send(const Payload& data, int to) override {
    RETURN_IF_ERROR(broken_);
    RETURN_IF_ERROR(CheckRank(*this, "send", to));
    ASSIGN_OR_RETURN(const Pieces all, Pieces::Of({data.num_bytes()}, 1));
    Reap();
    pending_.push_back(
        {std::string(static_cast<const char*>(data.data), data.num_bytes()),
         MPI_Request()});
    Pending& pending = pending_.back();
    return Check("send",
                 InTurn(mpi_.isend, pending.bytes.data(), all.counts[0],
                        mpi_.byte, to, kMessageTag, group_, &pending.request));
  }

  absl::Status Receive(const Payload& data, int from) override {
    RETURN_IF_ERROR(CheckRank(*this, "receive", from));
    ASSIGN_OR_RETURN(const Pieces all, Pieces::Of({data.num_bytes()}, 1));
    MPI_Request request;
    MPI_Status status;
    RETURN_IF_ERROR(Do("receive", request,
                       InTurn(mpi_.irecv, data.data, all.counts[0], mpi_.byte,
                              from, kMessageTag, group_, &request),
                       &status, {from}));
    int num_bytes = 0;
    InTurn(mpi_.get_count, &status, mpi_.byte, &num_bytes);
    if (num_bytes != data.num_bytes()) {
      return broken_ = SizeError(*this, from, num_bytes, data);
    }
    return absl::OkStatus();
  }

  absl::Status Barrier() override {
    MPI_Request request;
    return Do("barrier", request, InTurn(mpi_.ibarrier, group_, &request));
  }

  absl::StatusOr<std::unique_ptr<Communicator>> Split(
      int color, int key, absl::string_view name) override {
    RETURN_IF_ERROR(broken_);
    // MPI cannot be asked about a split under way: all have come by now.
    RETURN_IF_ERROR(Barrier());
    MPI_Comm part = nullptr;
    RETURN_IF_ERROR(
        Check("split",
              InTurn(mpi_.comm_split, group_,
                     color == kNoColor ? MPI_UNDEFINED : color, key, &part)));
    if (color == kNoColor) return nullptr;
    return std::make_unique<MpiCommunicator>(mpi_, part, /*owned=*/true,
                                             timeout_, name);
  }

 private:
  // A message that is sent.
  struct Pending {
    std::string bytes;
    MPI_Request request;
  };

  MPI_Datatype TypeOf(DType dtype) const {
    return dtype == DType::kF32   ? mpi_.f32
           : dtype == DType::kF64 ? mpi_.f64
                                  : mpi_.i32;
  }

  absl::Status Check(absl::string_view call, int code) {
    if (code == MPI_SUCCESS) return absl::OkStatus();
    char text[MPI_MAX_ERROR_STRING];
    int length = 0;
    InTurn(mpi_.error_string, code, text, &length);
    return broken_ = absl::InternalError(
               absl::StrCat(name_, ": ", call, ": rank ", rank_, ": ",
                            absl::string_view(text, length)));
  }

  // Waits for the request that a call with result `code` made.
  absl::Status Do(absl::string_view call, MPI_Request& request, int code,
                  MPI_Status* status = MPI_STATUS_IGNORE,
                  const std::vector<int>& others = {}) {
    RETURN_IF_ERROR(broken_);
    RETURN_IF_ERROR(Check(call, code));
    const RankWait waiting;
    const absl::Time end = absl::Now() + timeout_;
    for (int64_t turns = 0;; ++turns) {
      int done = 0;
      RETURN_IF_ERROR(Check(call, InTurn(mpi_.test, &request, &done, status)));
      if (done != 0) return absl::OkStatus();
      Reap();
      BeatPulse();
      // Others may want this core: the rank that is waited for, perhaps.
      if (turns > 1000) usleep(20);
      if (turns % 64 == 63 && absl::Now() > end) {
        const absl::Status late = LateError(*this, call, others, timeout_);
        return broken_ = absl::Status(
                   late.code(),
                   absl::StrCat(late.message(), SilentRanks(timeout_ / 2)));
      }
    }
  }

  // Frees the messages that have gone.
  void Reap() {
    for (auto it = pending_.begin(); it != pending_.end();) {
      int done = 0;
      InTurn(mpi_.test, &it->request, &done, MPI_STATUS_IGNORE);
      it = done != 0 ? pending_.erase(it) : std::next(it);
    }
  }

  const MpiLibrary& mpi_;
  MPI_Comm group_;
  const bool owned_;
  const absl::Duration timeout_;
  const std::string name_;
  int rank_ = 0, size_ = 0;
  std::list<Pending> pending_;
  absl::Status broken_;
};

class World : public MpiWorld {
 public:
  World(const MpiLibrary& mpi, absl::Duration timeout)
      : mpi_(mpi),
        timeout_(timeout),
        world_(std::make_unique<MpiCommunicator>(
            mpi, mpi.world, /*owned=*/false, timeout, "world")) {}

  // MPI waits in its end for the others, without a word and for ever: so they
  // meet before, where one that does not come is told of.
  ~World() override {
    const int rank = world_->rank();
    if (const absl::Status met = world_->Barrier(); !met.ok()) {
      if (strata::ClaimLastWord()) {
        std::fprintf(stderr, "error: rank %d cannot end: %s\n", rank,
                     std::string(met.message()).c_str());
      }
      Abort(1);
    }
    LeavePulse();
    world_ = nullptr;
    const Deadline deadline(timeout_,
                            absl::StrCat("rank ", rank,
                                         " is done, and waited for others in "
                                         "the end of MPI"));
    mpi_.finalize();
  }

  // So that a rank which is waited for in vain can be named.
  absl::Status Join(absl::Duration timeout) {
    if (world_->size() == 1) return absl::OkStatus();
    MPI_Comm group = nullptr;
    if (InTurn(mpi_.comm_split, mpi_.world, 0, world_->rank(), &group) !=
        MPI_SUCCESS) {
      return absl::UnavailableError("MPI makes no group of signs of life");
    }
    return JoinPulse(
        *world_,
        std::clamp(timeout / kBeatsOfTimeout, kShortestBeat, kLongestBeat),
        std::make_unique<MpiPulseLink>(mpi_, group));
  }

  Communicator& world() override { return *world_; }
  bool ClaimLastWord() override { return strata::ClaimLastWord(); }
  void Abort(int status) override { mpi_.abort(mpi_.world, status); }

 private:
  const MpiLibrary& mpi_;
  const absl::Duration timeout_;
  std::unique_ptr<MpiCommunicator> world_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<MpiWorld>> MpiWorld::Start(
    absl::Duration timeout) {
  ASSIGN_OR_RETURN(const MpiLibrary* const mpi, MpiLibrary::Load());
  int provided = 0;
  const Deadline deadline(std::max(timeout, kStartingTime),
                          "MPI waited for other ranks to start");
  const int code =
      mpi->init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &provided);
  if (code != MPI_SUCCESS || provided < MPI_THREAD_SERIALIZED) {
    return absl::UnavailableError(
        absl::StrCat("MPI does not start (code ", code, ", threads ", provided,
                     "); mpirun's own output says why"));
  }
  auto started = std::make_unique<World>(*mpi, timeout);
  RETURN_IF_ERROR(started->Join(timeout));
  return started;
}

}  // namespace strata
