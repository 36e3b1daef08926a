#include "core/parallel/pulse.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "core/base/status_macros.h"
#include "core/parallel/communicator.h"

namespace strata {
namespace {

// When a rank was last heard of, by the clock that its machine has for all.
struct alignas(64) Beat {
  std::atomic<int64_t> nanoseconds;
};
static_assert(std::atomic<int64_t>::is_always_lock_free,
              "processes share them");

struct Table {
  Beat* beat = nullptr;  // [ranks]
  int ranks = 0;
  int rank = 0;
};

std::atomic<const Table*> joined = nullptr;

int64_t Now() {
  timespec time = {};
  clock_gettime(CLOCK_MONOTONIC, &time);
  return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

// The table in a file of that name; null if it cannot be mapped.
Beat* MapTable(int fd, int ranks) {
  if (fd < 0) return nullptr;
  void* const data = mmap(nullptr, ranks * sizeof(Beat), PROT_READ | PROT_WRITE,
                          MAP_SHARED, fd, 0);
  close(fd);
  return data != MAP_FAILED ? static_cast<Beat*>(data) : nullptr;
}

}  // namespace

absl::Status JoinPulse(Communicator& world) {
  if (world.size() == 1 || joined.load() != nullptr) return absl::OkStatus();
  // A name of no file where there is none to share: on another machine it
  // does not exist either.
  char path[] = "/dev/shm/strata-XXXXXX";
  int fd = -1;
  if (world.rank() == 0) {
    fd = mkstemp(path);
    if (fd >= 0 && ftruncate(fd, world.size() * sizeof(Beat)) != 0) {
      close(fd);
      fd = -1;
    }
  }
  RETURN_IF_ERROR(world.Broadcast(
      PayloadOf(absl::MakeSpan(reinterpret_cast<uint8_t*>(path), sizeof(path))),
      /*root=*/0));
  if (world.rank() > 0) fd = open(path, O_RDWR | O_CLOEXEC);
  Beat* const beat = MapTable(fd, world.size());
  if (beat != nullptr) beat[world.rank()].nanoseconds = Now();
  RETURN_IF_ERROR(world.Barrier());
  // All have it: no file is left when they end, however they do.
  if (world.rank() == 0) unlink(path);
  if (beat != nullptr) {
    joined = new Table{beat, world.size(), world.rank()};
  }
  return absl::OkStatus();
}

void BeatPulse() {
  const Table* const table = joined.load(std::memory_order_acquire);
  if (table == nullptr) return;
  table->beat[table->rank].nanoseconds.store(Now(), std::memory_order_relaxed);
}

std::string SilentRanks(absl::Duration at_least) {
  const Table* const table = joined.load(std::memory_order_acquire);
  std::string silent;
  if (table == nullptr) return silent;
  for (int r = 0; r < table->ranks; ++r) {
    const int64_t last = table->beat[r].nanoseconds.load();
    const absl::Duration since = absl::Nanoseconds(Now() - last);
    // Zero: of another machine.
    if (r == table->rank || last == 0 || since < at_least) continue;
    absl::StrAppend(&silent, "; rank ", r, " was last heard of ",
                    absl::FormatDuration(absl::Trunc(since, absl::Seconds(1))),
                    " ago");
  }
  return silent;
}

}  // namespace strata
