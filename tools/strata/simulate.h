// What `strata simulate` can simulate: a file for each.

#ifndef TOOLS_STRATA_SIMULATE_H_
#define TOOLS_STRATA_SIMULATE_H_

#include "CLI/CLI.hpp"
#include "tools/strata/command.h"

namespace strata {

// Adds `simulate` and what stands below it.
Command AddSimulate(CLI::App& app);

}  // namespace strata

#endif  // TOOLS_STRATA_SIMULATE_H_
