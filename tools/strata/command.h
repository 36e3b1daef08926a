// The subcommands of `strata`. Each has a file: it parses, calls a library and
// prints.
//
// Results go to stdout; progress, notes and errors to stderr. With --json,
// stdout has one JSON value and nothing else.

#ifndef TOOLS_STRATA_COMMAND_H_
#define TOOLS_STRATA_COMMAND_H_

#include <functional>

#include "CLI/CLI.hpp"
#include "absl/status/statusor.h"

namespace strata {

struct Command {
  CLI::App* app = nullptr;
  // Runs it on what was parsed; returns the exit status.
  std::function<absl::StatusOr<int>()> run;
};

Command AddTrain(CLI::App& app);
Command AddGenerate(CLI::App& app);
Command AddServe(CLI::App& app);
Command AddEvaluate(CLI::App& app);
Command AddInfo(CLI::App& app);
Command AddInspect(CLI::App& app);
Command AddDemo(CLI::App& app);
Command AddScorecard(CLI::App& app);
Command AddAblate(CLI::App& app);
Command AddTrace(CLI::App& app);
Command AddConvert(CLI::App& app);
Command AddVerify(CLI::App& app);
Command AddCalibrate(CLI::App& app);
Command AddTokenize(CLI::App& app);
Command AddTrainTokenizer(CLI::App& app);

// Parses, runs, reports errors: one line on stderr each. Returns the exit
// status: 0, 1 for an error, 2 for wrong usage, 130 after Ctrl-C.
int RunCommandLine(int argc, const char* const* argv);

}  // namespace strata

#endif  // TOOLS_STRATA_COMMAND_H_
