#include "cuda/nccl/nccl_group.h"

#include <unistd.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "core/base/status_macros.h"
#include "core/parallel/pulse.h"
#include "core/parallel/rank_wait.h"
#include "cuda/nccl/nccl_library.h"
#include "cuda/runtime/status.h"
#include "cuda_runtime_api.h"
#include "nccl.h"

namespace strata::gpu {
namespace {

// Asks `done` until it says yes or `end` has come; false then. The first times
// at once: most waits are shorter than a sleep.
bool Poll(absl::Time end, const std::function<bool()>& done) {
  const RankWait waiting;
  for (int64_t turns = 0; !done(); ++turns) {
    BeatPulse();
    if (turns > 2000) usleep(20);
    if (turns % 64 == 63 && absl::Now() > end) return false;
  }
  return true;
}

}  // namespace

absl::StatusOr<std::unique_ptr<NcclGroup>> NcclGroup::Join(
    const NcclLibrary& nccl, const ncclUniqueId& id, const Options& options) {
  auto group = std::unique_ptr<NcclGroup>(new NcclGroup(nccl, options));
  RETURN_IF_ERROR(ToStatus(
      cudaStreamCreateWithFlags(&group->stream_, cudaStreamNonBlocking)));
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  if (options.max_blocks > 0) config.maxCTAs = options.max_blocks;
  const ncclResult_t begun = nccl.comm_init_rank_config(
      &group->comm_, options.size, id, options.rank, &config);
  RETURN_IF_ERROR(group->Settle("joining", begun));
  return group;
}

NcclGroup::~NcclGroup() {
  if (comm_ != nullptr && options_.ends_alone) {
    nccl_.comm_abort(comm_);
  } else if (comm_ != nullptr) {
    // Ends together with the others where that goes well.
    if (Settle("leaving", nccl_.comm_finalize(comm_)).ok()) {
      nccl_.comm_destroy(comm_);
    }
  }
  if (stream_ != nullptr) cudaStreamDestroy(stream_);
}

absl::Status NcclGroup::Enqueue(
    absl::string_view what,
    const std::function<ncclResult_t(ncclComm_t)>& calls) {
  RETURN_IF_ERROR(broken_);
  nccl_.group_start();
  const ncclResult_t called = calls(comm_);
  const ncclResult_t ended = nccl_.group_end();
  const bool is_bad = called != ncclSuccess && called != ncclInProgress;
  return Settle(what, is_bad ? called : ended);
}

absl::Status NcclGroup::Settle(absl::string_view what, ncclResult_t begun) {
  RETURN_IF_ERROR(broken_);
  ncclResult_t state = begun;
  const auto settled = [&] {
    if (state == ncclInProgress &&
        nccl_.comm_get_async_error(comm_, &state) != ncclSuccess) {
      state = ncclInternalError;
    }
    return state != ncclInProgress;
  };
  if (!Poll(absl::Now() + options_.timeout, settled)) {
    return GiveUp(what);
  }
  if (state == ncclSuccess) return absl::OkStatus();
  const char* const detail = nccl_.get_last_error(nullptr);
  return Break(absl::InternalError(
      absl::StrCat(options_.name, ": ", what, ": rank ", options_.rank, ": ",
                   nccl_.get_error_string(state), detail != nullptr ? ": " : "",
                   detail != nullptr ? detail : "")));
}

absl::Status NcclGroup::Wait(absl::string_view what) {
  RETURN_IF_ERROR(broken_);
  cudaError_t error = cudaErrorNotReady;
  ncclResult_t state = ncclSuccess;
  const auto done = [&] {
    error = cudaStreamQuery(stream_);
    if (error != cudaErrorNotReady) return true;
    nccl_.comm_get_async_error(comm_, &state);
    return state != ncclSuccess && state != ncclInProgress;
  };
  const bool in_time = Poll(absl::Now() + options_.timeout, done);
  if (state != ncclSuccess && state != ncclInProgress) {
    return Settle(what, state);
  }
  if (!in_time) {
    return GiveUp(what);
  }
  if (error == cudaSuccess) return absl::OkStatus();
  return Break(ToStatus(error));
}

absl::Status NcclGroup::GiveUp(absl::string_view what) {
  RETURN_IF_ERROR(broken_);
  return Break(absl::DeadlineExceededError(absl::StrCat(
      options_.name, ": ", what, ": the other ranks have not come in ",
      absl::FormatDuration(options_.timeout),
      SilentRanks(options_.timeout / 2))));
}

absl::Status NcclGroup::Break(const absl::Status& status) {
  if (broken_.ok()) broken_ = status;
  if (comm_ != nullptr) nccl_.comm_abort(std::exchange(comm_, nullptr));
  return broken_;
}

}  // namespace strata::gpu
