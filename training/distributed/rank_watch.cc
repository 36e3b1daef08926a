#include "training/distributed/rank_watch.h"

#include <signal.h>
#include <sys/types.h>
#include <sys/wait.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <string>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace strata {
namespace {

namespace fs = std::filesystem;

constexpr absl::Duration kTellsAgain = absl::Seconds(1);
constexpr absl::Duration kTurn = absl::Milliseconds(50);
// From a polite signal to one that cannot be waited out.
constexpr absl::Duration kUntilKilled = absl::Seconds(3);

int NumRanks(pid_t pid, const std::string& program) {
  int count = 0;
  std::error_code error;
  const fs::path tasks = absl::StrCat("/proc/", pid, "/task");
  for (const fs::directory_entry& task : fs::directory_iterator(tasks, error)) {
    std::ifstream children(task.path() / "children");
    for (pid_t child; children >> child;) {
      const fs::path path =
          fs::read_symlink(absl::StrCat("/proc/", child, "/exe"), error);
      if (!error && path == program) ++count;
    }
  }
  return count;
}

}  // namespace

RankWatchResult WaitForRanks(pid_t pid, const std::string& program,
                             const RankWatchOptions& options) {
  RankWatchResult result;
  int most = 0;
  absl::Time whole_since = absl::Now();  // When all were last there, or none.
  absl::Time asked = absl::InfiniteFuture();
  absl::Time told = absl::InfinitePast();
  for (;;) {
    const pid_t ended = waitpid(pid, &result.status, WNOHANG);
    if (ended == pid || (ended < 0 && errno != EINTR)) return result;
    const absl::Time now = absl::Now();
    const int count = NumRanks(pid, program);
    most = std::max(most, count);
    result.had_ranks = most > 0;
    if (count > 0 && count == most) {
      whole_since = now;
    } else if (now - whole_since >
               (result.had_ranks ? options.end : options.start)) {
      if (!result.was_ended) {
        result.was_ended = true;
        asked = now;
        kill(pid, SIGTERM);
      } else if (now - asked > kUntilKilled) {
        kill(pid, SIGKILL);
      }
    }
    if (options.stop && options.stop() && now - told > kTellsAgain) {
      told = now;
      kill(pid, SIGUSR1);
    }
    absl::SleepFor(kTurn);
  }
}

}  // namespace strata
