#include "tools/strata/command.h"

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "absl/types/span.h"
#include "core/base/build_info.h"
#include "tools/strata/option_parser.h"
#include "tools/strata/output.h"
#include "training/distributed/launched.h"

namespace strata {
namespace {

constexpr int kErrorExitCode = 1;
constexpr int kUsageExitCode = 2;

// Single-character edits from `a` to `b`.
size_t EditDistance(absl::string_view a, absl::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replace = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, replace});
    }
  }
  return row[b.size()];
}

// What all ranks see is said once.
void Say(absl::string_view problem) {
  absl::SleepFor(TurnToSpeak(LaunchedRank()));
  PrintError(problem);
}

int UsageError(absl::string_view problem, absl::string_view command) {
  Say(absl::StrCat(problem, "; see strata ", command,
                   command.empty() ? "" : " ", "--help"));
  return kUsageExitCode;
}

int UnknownCommand(const std::string& name,
                   const std::vector<Command>& commands) {
  std::vector<std::string> names;
  for (const Command& command : commands) {
    names.push_back(command.app->name());
  }
  const std::string nearest =
      *std::min_element(names.begin(), names.end(),
                        [&](const std::string& a, const std::string& b) {
                          return EditDistance(name, a) < EditDistance(name, b);
                        });
  // Beyond half of the letters it is no misspelling.
  const bool is_near = EditDistance(name, nearest) * 2 <= nearest.size();
  return UsageError(
      absl::StrCat(
          "no subcommand \"", name, "\"",
          is_near ? absl::StrCat(", did you mean ", nearest, "?") : ";",
          " there are ", absl::StrJoin(names, ", ")),
      "");
}

int Run(const Command& command) {
  const absl::StatusOr<int> exit_code = command.run();
  if (!exit_code.ok()) {
    Say(exit_code.status().message());
    return kErrorExitCode;
  }
  return *exit_code;
}

int Parse(OptionParser& app, int argc, const char* const* argv,
          const std::vector<Command>& commands) {
  const auto is_called = [&](const Command& command) {
    return command.app->name() == argv[1];
  };
  if (argc > 1 && argv[1][0] != '-' &&
      std::none_of(commands.begin(), commands.end(), is_called)) {
    return UnknownCommand(argv[1], commands);
  }
  const auto asked = app.Parse(argc, argv);
  if (!asked.ok()) {
    const auto called = std::find_if(
        commands.begin(), commands.end(),
        [](const Command& command) { return command.app->is_called(); });
    return UsageError(asked.status().message(),
                      called == commands.end() ? "" : called->app->name());
  }
  if (asked->has_value()) {
    Print(**asked);
    return 0;
  }
  for (const Command& command : commands) {
    if (command.app->is_called()) return Run(command);
  }
  return UsageError("no subcommand", "");
}

}  // namespace

std::string VersionText() {
  return std::string("strata ")
      .append(Version())
      .append(" (commit ")
      .append(Commit())
      .append(")");
}

int RunCommandLine(int argc, const char* const* argv,
                   absl::Span<const AddCommand> add) {
  OptionParser app("strata",
                   "Strata trains, serves and simulates hierarchical "
                   "mixture-of-experts language models.");
  app.AddVersion(VersionText());
  app.RequireSubcommand(1, 1);
  std::vector<Command> commands;
  commands.reserve(add.size());
  for (const AddCommand add_command : add) commands.push_back(add_command(app));

  const int exit_code = Parse(app, argc, argv, commands);
  // A reader that has gone, as head does, is no error.
  if (!FlushOutput() && errno != EPIPE) {
    PrintError(absl::StrCat("cannot write the output: ", strerror(errno)));
    return kErrorExitCode;
  }
  return exit_code;
}

}  // namespace strata
