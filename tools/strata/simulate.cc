#include "tools/strata/simulate.h"

#include <vector>

#include "CLI/CLI.hpp"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tools/strata/command.h"
#include "tools/strata/simulate_astra.h"
#include "tools/strata/simulate_model.h"

namespace strata {

Command AddSimulate(CLI::App& app) {
  CLI::App* simulate = app.add_subcommand(
      "simulate", "Say how long a workload takes on a cluster");
  simulate->require_subcommand(0, 1);
  // What is asked for without a subcommand comes last.
  const std::vector<Command> commands = {AddSimulateAstra(*simulate),
                                         AddSimulateModel(*simulate)};
  return {simulate, [commands]() -> absl::StatusOr<int> {
            for (const Command& command : commands) {
              if (command.app->parsed()) return command.run();
            }
            return absl::InternalError("no simulation was asked for");
          }};
}

}  // namespace strata
