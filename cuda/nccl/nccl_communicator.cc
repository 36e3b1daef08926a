#include "cuda/nccl/nccl_communicator.h"

#include <algorithm>
#include <cstdint>
#include <deque>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "core/base/status_macros.h"
#include "core/parallel/collective_checks.h"
#include "core/parallel/communicator.h"
#include "core/tensor/dtype.h"
#include "cuda/nccl/gather_of.h"
#include "cuda/nccl/message_boxes.h"
#include "cuda/nccl/message_copy.h"
#include "cuda/nccl/nccl_group.h"
#include "cuda/nccl/nccl_library.h"
#include "cuda/nccl/nccl_sender.h"
#include "cuda/nccl/peer_table.h"
#include "cuda/nccl/peer_window.h"
#include "cuda/nccl/shared_block.h"
#include "cuda/nccl/staging.h"
#include "cuda/runtime/status.h"
#include "cuda_runtime_api.h"
#include "nccl.h"

namespace strata::gpu {
namespace {

// A message's copy needs few of the GPU's blocks: others run beside it.
constexpr int kMessageBlocks = 8;
// Messages up to this size go by the host, which is asked about the size of
// each anyway: a call of NCCL, and a thread that waits for it, would take
// longer.
constexpr int64_t kHostMessageBytes = 4096;
constexpr int64_t kNoBox = -1;  // BoxedMessage::box of those that are in none.

ncclDataType_t TypeOf(DType dtype) {
  return dtype == DType::kF32    ? ncclFloat32
         : dtype == DType::kF64  ? ncclFloat64
         : dtype == DType::kBF16 ? ncclBfloat16
                                 : ncclInt32;
}

bool AreEqual(absl::Span<const int64_t> counts) {
  return std::all_of(counts.begin(), counts.end(),
                     [&](int64_t count) { return count == counts[0]; });
}

class NcclRanks : public NcclCommunicator {
 public:
  NcclRanks(const NcclLibrary& nccl, Communicator& host,
            std::unique_ptr<Communicator> owned, int device,
            absl::Duration timeout, Messages messages)
      : nccl_(nccl),
        owned_(std::move(owned)),
        host_(host),
        device_(device),
        timeout_(timeout),
        messages_(messages) {}

  absl::Status Open() {
    RETURN_IF_ERROR(ToStatus(cudaSetDevice(device_)));
    RETURN_IF_ERROR(KeepFreedCopies(device_));
    ASSIGN_OR_RETURN(places_, GatherOf(host_, PlaceHere(device_)));
    ncclUniqueId id = {};
    if (rank() == 0) RETURN_IF_ERROR(MakeId(id));
    RETURN_IF_ERROR(host_.Broadcast(PayloadOfStruct(id), 0));
    ASSIGN_OR_RETURN(group_,
                     NcclGroup::Join(nccl_, id, OptionsOf(size(), rank())));
    return absl::OkStatus();
  }

  int rank() const override { return host_.rank(); }
  int size() const override { return host_.size(); }
  absl::string_view name() const override { return host_.name(); }

  absl::Status AllReduce(const Payload& data, ReduceOp op) override {
    RETURN_IF_ERROR(CheckReducible(*this, "all_reduce", data));
    if (data.count == 0) return absl::OkStatus();
    ASSIGN_OR_RETURN(char* const at, in_.Fill(data, group_->stream()));
    return RunAndWait("all_reduce", in_, data, [&](ncclComm_t comm) {
      return nccl_.all_reduce(at, at, data.count, TypeOf(data.dtype),
                              op == ReduceOp::kSum ? ncclSum : ncclMax, comm,
                              group_->stream());
    });
  }

  absl::Status EnqueueAllReduce(absl::Span<const Payload> states,
                                cudaStream_t stream) override {
    return Enqueue("all_reduce", [&](ncclComm_t comm) {
      ncclResult_t result = ncclSuccess;
      for (const Payload& state : states) {
        result = First(result, nccl_.all_reduce(
                                   state.data, state.data, state.count,
                                   TypeOf(state.dtype), ncclSum, comm, stream));
      }
      return result;
    });
  }

  absl::Status EnqueueBroadcast(absl::Span<const Payload> states, int root,
                                cudaStream_t stream) override {
    RETURN_IF_ERROR(CheckRank(*this, "broadcast", root));
    return Enqueue("broadcast", [&](ncclComm_t comm) {
      ncclResult_t result = ncclSuccess;
      for (const Payload& state : states) {
        result = First(
            result, nccl_.broadcast(state.data, state.data, state.num_bytes(),
                                    ncclInt8, root, comm, stream));
      }
      return result;
    });
  }

  absl::Status EnqueueAllGather(const Payload& in, const Payload& out,
                                cudaStream_t stream) override {
    return Enqueue("all_gather", [&](ncclComm_t comm) {
      return nccl_.all_gather(in.data, out.data, in.num_bytes(), ncclInt8, comm,
                              stream);
    });
  }

  absl::Duration timeout() const override { return timeout_; }
  absl::Status GiveUp(absl::string_view what) override {
    return broken_ = group_->GiveUp(what);
  }

  absl::StatusOr<Peers> PeersFor(int64_t piece_bytes) override {
    if (window_ == nullptr) {
      ASSIGN_OR_RETURN(window_, PeerWindow::Open(host_, device_, timeout_));
    }
    RETURN_IF_ERROR(window_->Reserve(piece_bytes));
    return window_->peers();
  }

  absl::Status AllGather(const Payload& in, absl::Span<const int64_t> counts,
                         const Payload& out) override {
    RETURN_IF_ERROR(CheckAllGather(*this, in, counts, out));
    if (out.count == 0) return absl::OkStatus();
    const int64_t width = SizeOf(in.dtype);
    ASSIGN_OR_RETURN(const char* const from, in_.Fill(in, group_->stream()));
    ASSIGN_OR_RETURN(char* const to, out_.Room(out));
    return RunAndWait("all_gather", out_, out, [&](ncclComm_t comm) {
      if (AreEqual(counts)) {
        return nccl_.all_gather(from, to, in.num_bytes(), ncclInt8, comm,
                                group_->stream());
      }
      ncclResult_t result = ncclSuccess;
      int64_t offset = 0;
      for (int r = 0; r < size(); ++r) {
        if (counts[r] > 0) {
          result = First(result,
                         nccl_.broadcast(from, to + offset, counts[r] * width,
                                         ncclInt8, r, comm, group_->stream()));
        }
        offset += counts[r] * width;
      }
      return result;
    });
  }

  absl::Status ReduceScatter(const Payload& in,
                             absl::Span<const int64_t> counts,
                             const Payload& out) override {
    RETURN_IF_ERROR(CheckReduceScatter(*this, in, counts, out));
    if (in.count == 0) return absl::OkStatus();
    const int64_t width = SizeOf(in.dtype);
    ASSIGN_OR_RETURN(const char* const from, in_.Fill(in, group_->stream()));
    ASSIGN_OR_RETURN(char* const to, out_.Room(out));
    return RunAndWait("reduce_scatter", out_, out, [&](ncclComm_t comm) {
      if (AreEqual(counts)) {
        return nccl_.reduce_scatter(from, to, counts[0], TypeOf(in.dtype),
                                    ncclSum, comm, group_->stream());
      }
      ncclResult_t result = ncclSuccess;
      int64_t offset = 0;
      for (int r = 0; r < size(); ++r) {
        if (counts[r] > 0) {
          result = First(result, nccl_.reduce(from + offset, to, counts[r],
                                              TypeOf(in.dtype), ncclSum, r,
                                              comm, group_->stream()));
        }
        offset += counts[r] * width;
      }
      return result;
    });
  }

  absl::Status AllToAll(const Payload& in, absl::Span<const int64_t> send,
                        absl::Span<const int64_t> receive,
                        const Payload& out) override {
    RETURN_IF_ERROR(CheckAllToAll(*this, in, send, receive, out));
    const int64_t width = SizeOf(in.dtype);
    ASSIGN_OR_RETURN(const char* from, in_.Fill(in, group_->stream()));
    ASSIGN_OR_RETURN(char* to, out_.Room(out));
    return RunAndWait("all_to_all", out_, out, [&](ncclComm_t comm) {
      ncclResult_t result = ncclSuccess;
      for (int r = 0; r < size(); ++r) {
        if (send[r] > 0) {
          result = First(result, nccl_.send(from, send[r] * width, ncclInt8, r,
                                            comm, group_->stream()));
        }
        if (receive[r] > 0) {
          result = First(result, nccl_.recv(to, receive[r] * width, ncclInt8, r,
                                            comm, group_->stream()));
        }
        from += send[r] * width;
        to += receive[r] * width;
      }
      return result;
    });
  }

  absl::Status Broadcast(const Payload& data, int root) override {
    RETURN_IF_ERROR(CheckRank(*this, "broadcast", root));
    if (data.count == 0) return absl::OkStatus();
    ASSIGN_OR_RETURN(char* const at, in_.Fill(data, group_->stream()));
    return RunAndWait("broadcast", in_, data, [&](ncclComm_t comm) {
      return nccl_.broadcast(at, at, data.num_bytes(), ncclInt8, root, comm,
                             group_->stream());
    });
  }

  // The size goes by the host, first: a rank that does not come, or sends
  // another size, is found out before the GPU waits.
  absl::Status Send(const Payload& data, int to) override {
    RETURN_IF_ERROR(broken_);
    RETURN_IF_ERROR(CheckRank(*this, "send", to));
    const int64_t num_bytes = data.num_bytes();
    if (to == rank()) {
      ASSIGN_OR_RETURN(MessageCopy copy, MessageCopy::Of(data.data, num_bytes));
      to_self_.push_back(std::move(copy));
      return absl::OkStatus();
    }
    BoxedMessage message = {};
    message.num_bytes = num_bytes;
    message.box = kNoBox;
    if (num_bytes > kHostMessageBytes && HasBoxes(to)) {
      ASSIGN_OR_RETURN(message, OutboxTo(to).Put(data.data, num_bytes));
    }
    RETURN_IF_ERROR(host_.Send(PayloadOfStruct(message), to));
    if (num_bytes == 0 || message.box != kNoBox) return absl::OkStatus();
    if (num_bytes <= kHostMessageBytes) {
      std::vector<uint8_t> copy(num_bytes);
      RETURN_IF_ERROR(ToStatus(
          cudaMemcpy(copy.data(), data.data, num_bytes, cudaMemcpyDefault)));
      return host_.Send(PayloadOf(absl::MakeSpan(copy)), to);
    }
    ASSIGN_OR_RETURN(NcclSender* const sender, SenderTo(to));
    return sender->Send(data.data, num_bytes);
  }

  absl::Status Receive(const Payload& data, int from) override {
    RETURN_IF_ERROR(broken_);
    RETURN_IF_ERROR(CheckRank(*this, "receive", from));
    if (from == rank()) return ReceiveFromSelf(data);
    BoxedMessage message = {};
    RETURN_IF_ERROR(host_.Receive(PayloadOfStruct(message), from));
    const int64_t num_bytes = message.num_bytes;
    if (num_bytes != data.num_bytes()) {
      return broken_ = SizeError(*this, from, num_bytes, data);
    }
    if (num_bytes == 0) return absl::OkStatus();
    if (num_bytes <= kHostMessageBytes) {
      std::vector<uint8_t> copy(num_bytes);
      RETURN_IF_ERROR(host_.Receive(PayloadOf(absl::MakeSpan(copy)), from));
      return ToStatus(
          cudaMemcpy(data.data, copy.data(), num_bytes, cudaMemcpyDefault));
    }
    return message.box != kNoBox ? InboxFrom(from).Take(message, data.data)
                                 : ReceiveByNccl(data, from);
  }

  absl::Status Barrier() override { return host_.Barrier(); }

  absl::StatusOr<std::unique_ptr<Communicator>> Split(
      int color, int key, absl::string_view name) override {
    ASSIGN_OR_RETURN(std::unique_ptr<Communicator> part,
                     host_.Split(color, key, name));
    if (part == nullptr) return nullptr;
    Communicator& host = *part;
    auto split = std::make_unique<NcclRanks>(nccl_, host, std::move(part),
                                             device_, timeout_, messages_);
    RETURN_IF_ERROR(split->Open());
    return split;
  }

 private:
  // The first that is no success.
  static ncclResult_t First(ncclResult_t a, ncclResult_t b) {
    return a != ncclSuccess ? a : b;
  }

  NcclGroup::Options OptionsOf(int size, int rank) const {
    NcclGroup::Options options;
    options.size = size;
    options.rank = rank;
    options.name = std::string(name());
    options.timeout = timeout_;
    return options;
  }
  // Of the two that a message goes between.
  NcclGroup::Options PairOptions(int rank) const {
    NcclGroup::Options options = OptionsOf(2, rank);
    options.max_blocks = kMessageBlocks;
    // Of two ranks each has a group to send and one to receive, which the other
    // has the other way about.
    options.ends_alone = true;
    return options;
  }

  absl::Status MakeId(ncclUniqueId& id) {
    const ncclResult_t result = nccl_.get_unique_id(&id);
    if (result == ncclSuccess) return absl::OkStatus();
    return absl::UnavailableError(absl::StrCat(
        name(), ": NCCL does not start: ", nccl_.get_error_string(result)));
  }

  // Copies of messages are of one size, so what is freed is used again; given
  // back to the system, and asked for anew, it would cost as much as a message.
  static absl::Status KeepFreedCopies(int device) {
    cudaMemPool_t pool = nullptr;
    uint64_t all = std::numeric_limits<uint64_t>::max();
    RETURN_IF_ERROR(ToStatus(cudaDeviceGetDefaultMemPool(&pool, device)));
    return ToStatus(
        cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &all));
  }

  bool HasBoxes(int other) const {
    return messages_ == Messages::kBoxes &&
           AreOnOneHost(places_[rank()], places_[other]);
  }
  Outbox& OutboxTo(int to) {
    std::unique_ptr<Outbox>& outbox = outboxes_[to];
    if (outbox == nullptr) {
      outbox = std::make_unique<Outbox>(places_[rank()], places_[to], timeout_);
    }
    return *outbox;
  }
  Inbox& InboxFrom(int from) {
    std::unique_ptr<Inbox>& inbox = inboxes_[from];
    if (inbox == nullptr) {
      inbox = std::make_unique<Inbox>(places_[rank()], places_[from]);
    }
    return *inbox;
  }

  // The first message makes a group of the two.
  absl::StatusOr<NcclSender*> SenderTo(int to) {
    std::unique_ptr<NcclSender>& sender = senders_[to];
    if (sender == nullptr) {
      ncclUniqueId id;
      RETURN_IF_ERROR(MakeId(id));
      RETURN_IF_ERROR(host_.Send(PayloadOfStruct(id), to));
      sender = std::make_unique<NcclSender>(
          device_,
          [this, id, options = PairOptions(0)] {
            return NcclGroup::Join(nccl_, id, options);
          },
          nccl_);
    }
    return sender.get();
  }
  absl::Status ReceiveByNccl(const Payload& data, int from) {
    std::unique_ptr<NcclGroup>& receiver = receivers_[from];
    if (receiver == nullptr) {
      ncclUniqueId id;
      RETURN_IF_ERROR(host_.Receive(PayloadOfStruct(id), from));
      ASSIGN_OR_RETURN(receiver, NcclGroup::Join(nccl_, id, PairOptions(1)));
    }
    ASSIGN_OR_RETURN(char* const to, out_.Room(data));
    RETURN_IF_ERROR(receiver->Enqueue("receive", [&](ncclComm_t comm) {
      return nccl_.recv(to, data.num_bytes(), ncclInt8, /*peer=*/0, comm,
                        receiver->stream());
    }));
    return EndCall(*receiver, "receive", out_, data);
  }

  absl::Status Enqueue(absl::string_view what,
                       const std::function<ncclResult_t(ncclComm_t)>& calls) {
    RETURN_IF_ERROR(broken_);
    return group_->Enqueue(what, calls);
  }

  // What comes of the calls lies in `staging`, and goes to `out`.
  absl::Status RunAndWait(
      absl::string_view what, Staging& staging, const Payload& out,
      const std::function<ncclResult_t(ncclComm_t)>& calls) {
    RETURN_IF_ERROR(Enqueue(what, calls));
    return EndCall(*group_, what, staging, out);
  }
  // A copy to the host waits in the driver, where no time-out ends it: only
  // behind the ranks.
  static absl::Status EndCall(NcclGroup& group, absl::string_view what,
                              Staging& staging, const Payload& out) {
    RETURN_IF_ERROR(group.Wait(what));
    RETURN_IF_ERROR(staging.Empty(out, group.stream()));
    return group.Wait(what);
  }

  absl::Status ReceiveFromSelf(const Payload& data) {
    if (to_self_.empty()) {
      return broken_ = LateError(*this, "receive", {rank()}, timeout_);
    }
    const MessageCopy copy = std::move(to_self_.front());
    to_self_.pop_front();
    const int64_t num_bytes = copy.num_bytes();
    if (num_bytes != data.num_bytes()) {
      return broken_ = SizeError(*this, rank(), num_bytes, data);
    }
    if (num_bytes == 0) return absl::OkStatus();
    RETURN_IF_ERROR(
        ToStatus(cudaMemcpyAsync(data.data, copy.data(), num_bytes,
                                 cudaMemcpyDefault, cudaStreamPerThread)));
    return ToStatus(cudaStreamSynchronize(cudaStreamPerThread));
  }

  const NcclLibrary& nccl_;
  const std::unique_ptr<Communicator> owned_;
  Communicator& host_;
  const int device_;
  const absl::Duration timeout_;
  const Messages messages_;
  std::vector<RankPlace> places_;  // [ranks]
  Staging in_, out_;
  std::unique_ptr<NcclGroup> group_;
  std::unique_ptr<PeerWindow> window_;  // Null until it is asked for.
  std::map<int, std::unique_ptr<Outbox>> outboxes_;
  std::map<int, std::unique_ptr<Inbox>> inboxes_;
  std::map<int, std::unique_ptr<NcclSender>> senders_;
  std::map<int, std::unique_ptr<NcclGroup>> receivers_;
  std::deque<MessageCopy> to_self_;
  absl::Status broken_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<NcclCommunicator>> NcclCommunicator::Join(
    Communicator& host, int device, absl::Duration timeout, Messages messages) {
  ASSIGN_OR_RETURN(const NcclLibrary* const nccl, NcclLibrary::Load());
  auto world = std::make_unique<NcclRanks>(*nccl, host, /*owned=*/nullptr,
                                           device, timeout, messages);
  RETURN_IF_ERROR(world->Open());
  return world;
}

}  // namespace strata::gpu
