#include "tools/strata/simulate.h"

#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tools/strata/command.h"
#include "tools/strata/option_parser.h"
#include "tools/strata/simulate_astra.h"
#include "tools/strata/simulate_model.h"

namespace strata {

Command AddSimulate(OptionParser& app) {
  OptionParser* simulate = app.AddSubcommand(
      "simulate", "Say how long a workload takes on a cluster");
  simulate->RequireSubcommand(0, 1);
  // What is asked for without a subcommand comes last.
  const std::vector<Command> commands = {AddSimulateAstra(*simulate),
                                         AddSimulateModel(*simulate)};
  return {simulate, [commands]() -> absl::StatusOr<int> {
            for (const Command& command : commands) {
              if (command.app->is_called()) return command.run();
            }
            return absl::InternalError("no simulation was asked for");
          }};
}

}  // namespace strata
