#include "training/distributed/launcher.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <system_error>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "absl/time/time.h"
#include "core/base/status_macros.h"
#include "nlohmann/json.hpp"
#include "training/distributed/rank_watch.h"
#include "training/run/metrics_log.h"
#include "training/trainer.h"

namespace strata {
namespace {

namespace fs = std::filesystem;

constexpr int kFruitlessStarts = 2;
// How long mpirun may have no ranks on this machine where it has had some, and
// not all of them any more: they end together.
constexpr absl::Duration kStartsRanks = absl::Seconds(60);
constexpr absl::Duration kOutlivesRanks = absl::Seconds(10);
constexpr int kSignalled = 128;  // A shell's status of a signal's end.

// The value of --out; empty if it is not given.
std::string OutOf(const std::vector<std::string>& arguments) {
  for (size_t i = 0; i < arguments.size(); ++i) {
    absl::string_view argument = arguments[i];
    if (argument == "--out" && i + 1 < arguments.size()) {
      return arguments[i + 1];
    }
    if (absl::ConsumePrefix(&argument, "--out=")) return std::string(argument);
  }
  return "";
}

// Starts a child in a group of its own: Ctrl-C, at which mpirun would kill the
// ranks, is for this process, which tells them to save. It ends with this one,
// and has no terminal's input, which is not for groups in the background.
absl::StatusOr<pid_t> Start(const std::vector<std::string>& command) {
  std::vector<char*> argv;
  for (const std::string& argument : command) {
    argv.push_back(const_cast<char*>(argument.c_str()));
  }
  argv.push_back(nullptr);
  int pipe_fd[2];  // Says why it could not be started; closed if it is.
  if (pipe2(pipe_fd, O_CLOEXEC) != 0) {
    return absl::UnavailableError(
        absl::StrCat("no pipe: ", std::strerror(errno)));
  }
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid == 0) {
    setpgid(0, 0);
    const int nothing = open("/dev/null", O_RDONLY);
    if (nothing >= 0) dup2(nothing, STDIN_FILENO);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() == parent) execvp(argv[0], argv.data());
    const int error = errno;
    const ssize_t written = write(pipe_fd[1], &error, sizeof(error));
    _exit(written < 0 ? 2 : 1);
  }
  int error = pid < 0 ? errno : 0;
  close(pipe_fd[1]);
  if (pid > 0 && read(pipe_fd[0], &error, sizeof(error)) > 0) {
    waitpid(pid, nullptr, 0);
  }
  close(pipe_fd[0]);
  if (error == 0) return pid;
  return absl::NotFoundError(absl::StrCat(
      "cannot start ", command[0], ": ", std::strerror(error),
      command[0] == "mpirun" ? "; it is of Debian's package openmpi-bin" : ""));
}

absl::StatusOr<RankWatchResult> RunCommand(
    const std::vector<std::string>& command, const LaunchOptions& options,
    const RankWatchOptions& watch) {
  ASSIGN_OR_RETURN(const pid_t pid, Start(command));
  const RankWatchResult result = WaitForRanks(pid, options.program, watch);
  if (result.was_ended && options.note) {
    const std::string waited =
        absl::FormatDuration(result.had_ranks ? watch.end : watch.start);
    options.note(
        result.had_ranks
            ? absl::StrCat("mpirun still waited ", waited,
                           " after ranks here had ended, for others here or "
                           "another host; ended it")
            : absl::StrCat("mpirun has started no rank here in ", waited,
                           ", as another host does not answer; ended it"));
  }
  return result;
}

// Whether the log of `out` ends with a step or what comes of one, written since
// `start`.
bool MadeSteps(const std::string& out, fs::file_time_type start) {
  const std::string path = absl::StrCat(out, "/", kMetricsFile);
  std::error_code error;
  const fs::file_time_type written = fs::last_write_time(path, error);
  if (error || written < start) return false;
  std::ifstream file(path);
  std::string line, last;
  while (std::getline(file, line)) {
    if (!line.empty()) last = line;
  }
  const auto json = nlohmann::json::parse(last, nullptr, false);
  if (!json.is_object()) return false;
  const std::string kind = json.value("kind", "");
  return !kind.empty() && kind != "manifest" && kind != "resume";
}

}  // namespace

absl::StatusOr<std::vector<std::string>> LaunchCommand(
    const LaunchOptions& options, const std::string& checkpoint, bool again) {
  if (OutOf(options.arguments).empty()) {
    return absl::InvalidArgumentError(
        "the command has no --out, where its checkpoints would be");
  }
  std::vector<std::string> command;
  if (options.ranks > 1) {
    command = {"mpirun", "-np", absl::StrCat(options.ranks), "--bind-to",
               "none"};
    if (geteuid() == 0) command.push_back("--allow-run-as-root");
    command.insert(command.end(), options.mpirun.begin(), options.mpirun.end());
  }
  command.push_back(options.program);
  const bool from_scratch = again && checkpoint.empty();
  bool has_overwrite = false;
  for (size_t i = 0; i < options.arguments.size(); ++i) {
    const std::string& argument = options.arguments[i];
    if (again && absl::StartsWith(argument, "--resume")) {
      // Its value, if it is an argument of its own.
      if (argument == "--resume" && i + 1 < options.arguments.size() &&
          !absl::StartsWith(options.arguments[i + 1], "--")) {
        ++i;
      }
      continue;
    }
    if (argument == "--overwrite") {
      has_overwrite = true;
      if (!checkpoint.empty()) continue;
    }
    command.push_back(argument);
  }
  if (from_scratch && !has_overwrite) command.push_back("--overwrite");
  if (!checkpoint.empty()) {
    command.push_back(absl::StrCat("--resume=", checkpoint));
  }
  return command;
}

absl::StatusOr<int> Launch(const LaunchOptions& options) {
  const std::string out = OutOf(options.arguments);
  std::string checkpoint;
  int fruitless = 0;
  // Ranks of other machines alone cannot be seen: no limit until there are
  // some.
  RankWatchOptions watch;
  watch.end = kOutlivesRanks;
  watch.stop = options.stop;
  for (int start = 0;; ++start) {
    ASSIGN_OR_RETURN(const std::vector<std::string> command,
                     LaunchCommand(options, checkpoint, start > 0));
    const fs::file_time_type began = fs::file_time_type::clock::now();
    ASSIGN_OR_RETURN(const RankWatchResult result,
                     RunCommand(command, options, watch));
    const int status = WIFEXITED(result.status)
                           ? WEXITSTATUS(result.status)
                           : kSignalled + WTERMSIG(result.status);
    if (result.had_ranks) watch.start = kStartsRanks;
    if (status == 0 || (options.stop && options.stop())) return status;

    const std::string ended =
        absl::StrCat("the ranks ended with status ", status);
    // What a signal ended may have been killed at any time.
    const bool fruitful =
        (status > kSignalled && !result.was_ended) || MadeSteps(out, began);
    fruitless = fruitful ? 0 : fruitless + 1;
    if (fruitless == kFruitlessStarts) {
      return absl::UnavailableError(
          absl::StrCat(ended,
                       ", twice before their first step; not started "
                       "again"));
    }
    if (start == options.restarts) {
      return absl::UnavailableError(
          absl::StrCat(ended, "; they were started again ", start, " times"));
    }
    const absl::StatusOr<std::string> found = FindCheckpoint(out);
    checkpoint = found.ok() ? *found : "";
    if (options.note) {
      options.note(absl::StrCat(ended, "; start ", start + 2, ", ",
                                checkpoint.empty()
                                    ? "from the beginning"
                                    : absl::StrCat("from ", checkpoint)));
    }
  }
}

}  // namespace strata
