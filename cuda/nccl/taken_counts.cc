#include "cuda/nccl/taken_counts.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace strata::gpu {
namespace {

static_assert(std::atomic<uint32_t>::is_always_lock_free,
              "processes share them");

constexpr int64_t kNumBytes =
    TakenCounts::kMostBoxes * static_cast<int64_t>(sizeof(uint32_t));

absl::Status SystemError(absl::string_view what) {
  return absl::UnavailableError(absl::StrCat(what, ": ", std::strerror(errno)));
}

}  // namespace

absl::StatusOr<std::unique_ptr<TakenCounts>> TakenCounts::Create() {
  // A file without a name: none is left, however the process ends.
  const int file = memfd_create("strata-message-boxes", MFD_CLOEXEC);
  if (file < 0) return SystemError("no memory to share with a peer");
  if (ftruncate(file, kNumBytes) != 0) {
    const absl::Status status = SystemError("no memory to share with a peer");
    close(file);
    return status;
  }
  return Map({getpid(), file}, file);
}

absl::StatusOr<std::unique_ptr<TakenCounts>> TakenCounts::Open(const Key& key) {
  const std::string path =
      absl::StrCat("/proc/", key.process, "/fd/", key.file);
  const int file = open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (file < 0) return SystemError(absl::StrCat("cannot open ", path));
  return Map(key, file);
}

absl::StatusOr<std::unique_ptr<TakenCounts>> TakenCounts::Map(const Key& key,
                                                              int file) {
  auto counts = std::unique_ptr<TakenCounts>(new TakenCounts(key));
  counts->file_ = file;
  void* const data =
      mmap(nullptr, kNumBytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (data == MAP_FAILED) return SystemError("cannot map a peer's memory");
  counts->counts_ = static_cast<std::atomic<uint32_t>*>(data);
  return counts;
}

TakenCounts::~TakenCounts() {
  if (counts_ != nullptr) munmap(counts_, kNumBytes);
  if (file_ >= 0) close(file_);
}

}  // namespace strata::gpu
