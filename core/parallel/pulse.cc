#include "core/parallel/pulse.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "core/base/status_macros.h"
#include "core/parallel/agree.h"
#include "core/parallel/communicator.h"

namespace strata {
namespace {

static_assert(std::atomic<int64_t>::is_always_lock_free,
              "processes share them");

int64_t Now() {
  timespec time = {};
  clock_gettime(CLOCK_MONOTONIC, &time);
  return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

// Sets `to`, unless it is as late already. Two ranks may have news of the same
// third one.
bool Advance(std::atomic<int64_t>& to, int64_t value) {
  int64_t old = to.load(std::memory_order_relaxed);
  while (old < value) {
    if (to.compare_exchange_weak(old, value)) return true;
  }
  return false;
}

// The table in a file; of this process alone if there is none.
Pulse::Beat* MapTable(int fd, size_t num_beats) {
  void* data = MAP_FAILED;
  if (fd >= 0) {
    data = mmap(nullptr, num_beats * sizeof(Pulse::Beat),
                PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
  }
  return data != MAP_FAILED ? static_cast<Pulse::Beat*>(data)
                            : new Pulse::Beat[num_beats]();
}

std::atomic<Pulse*> joined = nullptr;  // Never freed: it may be read any time.

}  // namespace

struct Pulse::Exchange {
  std::unique_ptr<PulseLink> link;
  int64_t interval;
  absl::Mutex mutex;  // Of who exchanges; others that beat go on.
  int64_t next = 0;
  int distance = 1;
  std::vector<int64_t> times;  // [ranks], of beats, each by its host's clock.
};

Pulse::Pulse(int rank, std::vector<PulsePlace> place, Beat* beat)
    : rank_(rank), place_(std::move(place)), beat_(beat) {}

Pulse::~Pulse() = default;

void Pulse::BeginExchange(int64_t now, absl::Duration interval,
                          std::unique_ptr<PulseLink> link) {
  exchange_ = std::make_unique<Exchange>();
  exchange_->link = std::move(link);
  exchange_->interval = absl::ToInt64Nanoseconds(interval);
  exchange_->times.resize(num_ranks());
  // Of a rank that is never heard of it is known for how long.
  for (int r = 0; r < num_ranks(); ++r) {
    Advance(beat_[r].heard, now);
  }
}

void Pulse::EndExchange() { exchange_ = nullptr; }

bool Pulse::ClaimLastWord() {
  return beat_[num_ranks()].heard.exchange(1) == 0;
}

void Pulse::BeatAt(int64_t now) {
  beat_[rank_].heard.store(now, std::memory_order_relaxed);
  beat_[rank_].was.store(now, std::memory_order_relaxed);
  if (exchange_ == nullptr || !exchange_->mutex.TryLock()) return;
  if (now >= exchange_->next) {
    exchange_->next = now + exchange_->interval;
    Hear(now);
    Tell();
  }
  exchange_->mutex.Unlock();
}

void Pulse::Hear(int64_t now) {
  std::vector<int64_t>& times = exchange_->times;
  while (exchange_->link->Receive(absl::MakeSpan(times))) {
    for (int r = 0; r < num_ranks(); ++r) {
      if (Advance(beat_[r].was, times[r])) Advance(beat_[r].heard, now);
    }
  }
}

void Pulse::Tell() {
  const int n = num_ranks();
  // The next turn that leads to another table.
  for (int turn = 1; turn < 2 * n; turn *= 2) {
    const int to = (rank_ + exchange_->distance) % n;
    exchange_->distance =
        exchange_->distance * 2 < n ? exchange_->distance * 2 : 1;
    if (place_[to].shares_table) continue;
    for (int r = 0; r < n; ++r) {
      exchange_->times[r] = beat_[r].was.load(std::memory_order_relaxed);
    }
    exchange_->link->Send(exchange_->times, to);
    return;
  }
}

std::string Pulse::SilentAt(int64_t now, absl::Duration at_least) const {
  struct Host {
    int num_ranks = 0;
    std::vector<int> silent;
    absl::Duration since = absl::InfiniteDuration();  // The shortest.
  };
  std::map<std::string, Host> hosts;
  for (int r = 0; r < num_ranks(); ++r) {
    Host& host = hosts[place_[r].host];
    ++host.num_ranks;
    const int64_t last = beat_[r].heard.load(std::memory_order_relaxed);
    const absl::Duration since = absl::Nanoseconds(now - last);
    if (r == rank_ || last == 0 || since < at_least) continue;
    host.silent.push_back(r);
    host.since = std::min(host.since, since);
  }
  std::string text;
  const auto say = [&](const std::string& who, absl::Duration since) {
    absl::StrAppend(&text, "; ", who, " last heard of ",
                    absl::FormatDuration(absl::Trunc(since, absl::Seconds(1))),
                    " ago");
  };
  for (const auto& [name, host] : hosts) {
    const int num_silent = host.silent.size();
    if (num_silent > 1 && num_silent == host.num_ranks) {
      say(absl::StrCat("ranks ", absl::StrJoin(host.silent, ", "), ", all on ",
                       name, ", were"),
          host.since);
      continue;
    }
    for (const int r : host.silent) {
      const int64_t last = beat_[r].heard.load(std::memory_order_relaxed);
      say(absl::StrCat("rank ", r, hosts.size() > 1 ? " on " : "",
                       hosts.size() > 1 ? name : "", " was"),
          absl::Nanoseconds(now - last));
    }
  }
  return text;
}

absl::Status JoinPulse(Communicator& world, absl::Duration interval,
                       std::unique_ptr<PulseLink> link) {
  if (world.size() == 1 || joined.load() != nullptr) return absl::OkStatus();
  const int n = world.size();
  const int rank = world.rank();
  const size_t num_beats = n + 1;  // And the last word.
  ASSIGN_OR_RETURN(const std::vector<std::string> hosts, HostsOf(world));
  // The first rank of each host makes the file. Of another machine of the same
  // name there is none of that path.
  const int first =
      std::find(hosts.begin(), hosts.end(), hosts[rank]) - hosts.begin();
  char path[] = "/dev/shm/strata-XXXXXX";
  int fd = -1;
  if (rank == first) {
    fd = mkstemp(path);
    if (fd >= 0 && ftruncate(fd, num_beats * sizeof(Pulse::Beat)) != 0) {
      close(fd);
      fd = -1;
    }
  }
  ASSIGN_OR_RETURN(const std::vector<std::string> paths, TextsOf(path, world));
  if (rank != first) fd = open(paths[first].c_str(), O_RDWR | O_CLOEXEC);
  Pulse::Beat* const beat = MapTable(fd, num_beats);
  beat[rank].heard = Now();
  RETURN_IF_ERROR(world.Barrier());
  // All have it: no file is left when they end, however they do.
  if (rank == first) unlink(path);
  std::vector<PulsePlace> place;
  for (int r = 0; r < n; ++r) {
    place.push_back({hosts[r], beat[r].heard.load() != 0});
  }
  RETURN_IF_ERROR(world.Barrier());
  auto pulse = std::make_unique<Pulse>(rank, std::move(place), beat);
  if (link != nullptr) pulse->BeginExchange(Now(), interval, std::move(link));
  joined = pulse.release();
  return absl::OkStatus();
}

void LeavePulse() {
  Pulse* const pulse = joined.load(std::memory_order_acquire);
  if (pulse != nullptr) pulse->EndExchange();
}

void BeatPulse() {
  Pulse* const pulse = joined.load(std::memory_order_acquire);
  if (pulse != nullptr) pulse->BeatAt(Now());
}

std::string SilentRanks(absl::Duration at_least) {
  const Pulse* const pulse = joined.load(std::memory_order_acquire);
  return pulse == nullptr ? "" : pulse->SilentAt(Now(), at_least);
}

bool ClaimLastWord() {
  Pulse* const pulse = joined.load(std::memory_order_acquire);
  return pulse == nullptr || pulse->ClaimLastWord();
}

}  // namespace strata
