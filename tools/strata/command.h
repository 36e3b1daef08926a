// The subcommands of `strata`. Each has a file: it parses, calls a library and
// prints.
//
// Results go to stdout; progress, notes and errors to stderr. With --json,
// stdout has one JSON value and nothing else.

#ifndef TOOLS_STRATA_COMMAND_H_
#define TOOLS_STRATA_COMMAND_H_

#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "tools/strata/option_parser.h"

namespace strata {

struct Command {
  OptionParser* app = nullptr;
  // Runs it on what was parsed; returns the exit status.
  std::function<absl::StatusOr<int>()> run;
};

using AddCommand = Command (*)(OptionParser& app);

Command AddTrain(OptionParser& app);
Command AddGenerate(OptionParser& app);
Command AddServe(OptionParser& app);
Command AddEvaluate(OptionParser& app);
Command AddInfo(OptionParser& app);
Command AddInspect(OptionParser& app);
Command AddDemo(OptionParser& app);
Command AddScorecard(OptionParser& app);
Command AddAblate(OptionParser& app);
Command AddLaunch(OptionParser& app);
Command AddTrace(OptionParser& app);
Command AddConvert(OptionParser& app);
Command AddVerify(OptionParser& app);
Command AddCalibrate(OptionParser& app);
Command AddQuantize(OptionParser& app);
Command AddTokenize(OptionParser& app);
Command AddTrainTokenizer(OptionParser& app);

// "strata 0.1.0 (commit 0123456789ab)"
std::string VersionText();

// Parses, runs, reports errors: one line on stderr each. `commands` are the
// program's subcommands, in the order that --help lists them. Returns the exit
// status: 0, 1 for an error, 2 for wrong usage, 130 after Ctrl-C. Of several
// processes that mpirun started the first is heard before the others.
int RunCommandLine(int argc, const char* const* argv,
                   absl::Span<const AddCommand> commands);

}  // namespace strata

#endif  // TOOLS_STRATA_COMMAND_H_
