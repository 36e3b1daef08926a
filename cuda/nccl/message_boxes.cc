#include "cuda/nccl/message_boxes.h"

#include <unistd.h>

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "core/base/status_macros.h"
#include "cuda/nccl/shared_block.h"
#include "cuda/runtime/status.h"
#include "cuda_runtime_api.h"

namespace strata::gpu {
namespace {

constexpr int64_t kAlignment = 256;
constexpr int32_t kTaken = 1;  // A flag; 0 while a message waits.

}  // namespace

Outbox::Outbox(const RankPlace& here, const RankPlace& receiver,
               absl::Duration timeout)
    : here_(here), receiver_(receiver), timeout_(timeout) {}

Outbox::~Outbox() {
  const auto all_empty = [&] {
    return absl::c_none_of(boxes_, [](const Box& box) { return box.is_full; });
  };
  const absl::Time end = absl::Now() + timeout_;
  while (!all_empty() && absl::Now() < end && Look().ok()) usleep(100);
}

absl::Status Outbox::Look() {
  std::vector<int32_t> flags(boxes_.size());
  for (size_t i = 0; i < boxes_.size(); ++i) {
    if (!boxes_[i].is_full) continue;
    RETURN_IF_ERROR(ToStatus(cudaMemcpyAsync(
        &flags[i], boxes_[i].block->data() + boxes_[i].capacity,
        sizeof(flags[i]), cudaMemcpyDeviceToHost, cudaStreamPerThread)));
  }
  RETURN_IF_ERROR(ToStatus(cudaStreamSynchronize(cudaStreamPerThread)));
  for (size_t i = 0; i < boxes_.size(); ++i) {
    boxes_[i].is_full &= flags[i] != kTaken;
  }
  return absl::OkStatus();
}

Outbox::Box* Outbox::FindEmpty(int64_t num_bytes) {
  const auto it = absl::c_find_if(boxes_, [&](const Box& box) {
    return !box.is_full && box.capacity >= num_bytes;
  });
  return it != boxes_.end() ? &*it : nullptr;
}

absl::StatusOr<BoxedMessage> Outbox::Put(const void* data, int64_t num_bytes) {
  BoxedMessage message = {};
  message.num_bytes = num_bytes;
  Box* box = FindEmpty(num_bytes);
  if (box == nullptr) {
    RETURN_IF_ERROR(Look());
    box = FindEmpty(num_bytes);
  }
  if (box == nullptr) {
    const int64_t capacity =
        (num_bytes + kAlignment - 1) / kAlignment * kAlignment;
    ASSIGN_OR_RETURN(
        std::unique_ptr<SharedBlock> block,
        SharedBlock::Allocate(here_, {&receiver_, 1}, capacity + kAlignment));
    message.is_new = 1;
    message.key = block->key();
    boxes_.push_back({std::move(block), capacity, /*is_full=*/false});
    box = &boxes_.back();
  }
  message.box = box - boxes_.data();
  message.capacity = box->capacity;
  RETURN_IF_ERROR(
      ToStatus(cudaMemsetAsync(box->block->data() + box->capacity, 0,
                               sizeof(int32_t), cudaStreamPerThread)));
  RETURN_IF_ERROR(
      ToStatus(cudaMemcpyAsync(box->block->data(), data, num_bytes,
                               cudaMemcpyDefault, cudaStreamPerThread)));
  RETURN_IF_ERROR(ToStatus(cudaStreamSynchronize(cudaStreamPerThread)));
  box->is_full = true;
  return message;
}

Inbox::~Inbox() { cudaFree(taken_); }

absl::Status Inbox::Take(const BoxedMessage& message, void* data) {
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
  if (taken_ == nullptr) {
    RETURN_IF_ERROR(ToStatus(cudaMalloc(&taken_, sizeof(kTaken))));
    RETURN_IF_ERROR(ToStatus(
        cudaMemcpy(taken_, &kTaken, sizeof(kTaken), cudaMemcpyHostToDevice)));
  }
  char* const box = boxes_[message.box]->data();
  RETURN_IF_ERROR(ToStatus(cudaMemcpyAsync(
      data, box, message.num_bytes, cudaMemcpyDefault, cudaStreamPerThread)));
  RETURN_IF_ERROR(
      ToStatus(cudaMemcpyAsync(box + message.capacity, taken_, sizeof(kTaken),
                               cudaMemcpyDeviceToDevice, cudaStreamPerThread)));
  return ToStatus(cudaStreamSynchronize(cudaStreamPerThread));
}

}  // namespace strata::gpu
