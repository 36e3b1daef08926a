#include "cuda/nccl/message_boxes.h"

#include <unistd.h>

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "core/base/status_macros.h"
#include "cuda/nccl/shared_block.h"
#include "cuda/nccl/taken_counts.h"
#include "cuda/runtime/status.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {
namespace {

constexpr int64_t kAlignment = 256;

}  // namespace

Outbox::Outbox(const RankPlace& here, const RankPlace& receiver,
               absl::Duration timeout)
    : here_(here), receiver_(receiver), timeout_(timeout) {}

Outbox::~Outbox() {
  const absl::Time end = absl::Now() + timeout_;
  for (size_t i = 0; i < boxes_.size(); ++i) {
    while (!IsEmpty(i) && absl::Now() < end) usleep(100);
  }
}

absl::StatusOr<int64_t> Outbox::FindBox(int64_t num_bytes,
                                        BoxedMessage& message) {
  const auto num_boxes = static_cast<int64_t>(boxes_.size());
  for (int64_t i = 0; i < num_boxes; ++i) {
    if (boxes_[i].capacity >= num_bytes && IsEmpty(i)) return i;
  }
  if (num_boxes == TakenCounts::kMostBoxes) {
    return absl::ResourceExhaustedError(absl::StrCat(
        num_boxes, " messages wait for a peer; want no more at once"));
  }
  const int64_t capacity =
      (num_bytes + kAlignment - 1) / kAlignment * kAlignment;
  ASSIGN_OR_RETURN(std::unique_ptr<SharedBlock> block,
                   SharedBlock::Allocate(here_, {&receiver_, 1}, capacity));
  message.is_new = 1;
  message.key = block->key();
  boxes_.push_back({std::move(block), capacity, /*num_sent=*/0});
  return num_boxes;
}

absl::StatusOr<BoxedMessage> Outbox::Put(const void* data, int64_t num_bytes) {
  if (counts_ == nullptr) {
    ASSIGN_OR_RETURN(counts_, TakenCounts::Create());
  }
  BoxedMessage message = {};
  message.num_bytes = num_bytes;
  message.counts = counts_->key();
  ASSIGN_OR_RETURN(message.box, FindBox(num_bytes, message));
  Box& box = boxes_[message.box];
  RETURN_IF_ERROR(
      ToStatus(cudaMemcpyAsync(box.block->data(), data, num_bytes,
                               cudaMemcpyDefault, cudaStreamPerThread)));
  RETURN_IF_ERROR(ToStatus(cudaStreamSynchronize(cudaStreamPerThread)));
  ++box.num_sent;
  return message;
}

absl::Status Inbox::Take(const BoxedMessage& message, void* data) {
  if (counts_ == nullptr) {
    ASSIGN_OR_RETURN(counts_, TakenCounts::Open(message.counts));
  }
  if (message.is_new != 0) {
    if (message.box != static_cast<int64_t>(boxes_.size())) {
      return absl::InternalError(absl::StrCat("box ", message.box, " after ",
                                              boxes_.size(), " boxes"));
    }
    ASSIGN_OR_RETURN(std::unique_ptr<OpenedBlock> opened,
                     OpenedBlock::Open(message.key, is_thread_));
    boxes_.push_back(std::move(opened));
  }
  if (message.box < 0 || message.box >= static_cast<int64_t>(boxes_.size())) {
    return absl::InternalError(
        absl::StrCat("box ", message.box, " of ", boxes_.size()));
  }
  RETURN_IF_ERROR(ToStatus(cudaMemcpyAsync(data, boxes_[message.box]->data(),
                                           message.num_bytes, cudaMemcpyDefault,
                                           cudaStreamPerThread)));
  RETURN_IF_ERROR(ToStatus(cudaStreamSynchronize(cudaStreamPerThread)));
  counts_->Add(message.box);
  return absl::OkStatus();
}

}  // namespace strata::gpu
