// strata simulate --model ...: a model's training step on a cluster.

#ifndef TOOLS_STRATA_SIMULATE_MODEL_H_
#define TOOLS_STRATA_SIMULATE_MODEL_H_

#include "tools/strata/command.h"
#include "tools/strata/option_parser.h"

namespace strata {

// Adds the flags to `simulate` itself, for when no subcommand is given.
Command AddSimulateModel(OptionParser& simulate);

}  // namespace strata

#endif  // TOOLS_STRATA_SIMULATE_MODEL_H_
