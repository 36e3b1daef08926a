// strata simulate --model ...: a model's training step on a cluster.

#ifndef TOOLS_STRATA_SIMULATE_MODEL_H_
#define TOOLS_STRATA_SIMULATE_MODEL_H_

#include "CLI/CLI.hpp"
#include "tools/strata/command.h"

namespace strata {

// Adds the flags to `simulate` itself, for when no subcommand is given.
Command AddSimulateModel(CLI::App& simulate);

}  // namespace strata

#endif  // TOOLS_STRATA_SIMULATE_MODEL_H_
