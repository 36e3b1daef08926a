// strata launch

#include <filesystem>
#include <memory>
#include <string>
#include <system_error>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/base/signals.h"
#include "core/base/status_macros.h"
#include "tools/strata/command.h"
#include "tools/strata/option_parser.h"
#include "tools/strata/output.h"
#include "training/distributed/launcher.h"

namespace strata {
namespace {

absl::StatusOr<int> RunLaunch(LaunchOptions options) {
  if (options.arguments[0] != "train") {
    return absl::InvalidArgumentError(
        absl::StrCat("the command is ", options.arguments[0], "; want train"));
  }
  std::error_code error;
  options.program =
      std::filesystem::read_symlink("/proc/self/exe", error).string();
  if (error) {
    return absl::NotFoundError(
        absl::StrCat("cannot find this program: ", error.message()));
  }
  options.note = PrintNote;
  options.stop = InterruptRequested;
  InstallInterruptHandler();
  ASSIGN_OR_RETURN(const int status, Launch(options));
  return InterruptRequested() ? kInterruptedExitCode : status;
}

}  // namespace

Command AddLaunch(OptionParser& app) {
  OptionParser* launch = app.AddSubcommand(
      "launch",
      "Train on several ranks, and start them again from the last checkpoint "
      "when one has died or hung: strata launch --ranks 2 -- train --dp 2 "
      "--out runs/mine");
  auto options = std::make_shared<LaunchOptions>();
  launch
      ->AddOption("--ranks", options->ranks,
                  "Processes to start, by mpirun where it is more than one")
      ->TypeName("N")
      ->Check(AtLeast(1));
  launch
      ->AddOption("--restarts", options->restarts,
                  "How often to start them again, at most")
      ->TypeName("N")
      ->Check(AtLeast(0));
  launch
      ->AddOption("--mpirun", options->mpirun,
                  "A further argument of mpirun; repeat it for several: "
                  "--mpirun=--hostfile --mpirun=hosts")
      ->TypeName("ARG")
      ->ShowDefault("")
      ->OneValueAtATime();
  launch
      ->AddOption("command", options->arguments,
                  "What each rank runs, behind --: train with its options, "
                  "--out among them")
      ->TypeName("COMMAND")
      ->ShowDefault("")
      ->Required();
  return {launch, [options] { return RunLaunch(*options); }};
}

}  // namespace strata
