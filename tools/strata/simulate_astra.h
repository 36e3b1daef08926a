// strata simulate astra

#ifndef TOOLS_STRATA_SIMULATE_ASTRA_H_
#define TOOLS_STRATA_SIMULATE_ASTRA_H_

#include "CLI/CLI.hpp"
#include "tools/strata/command.h"

namespace strata {

// Adds `astra` below `simulate`.
Command AddSimulateAstra(CLI::App& simulate);

}  // namespace strata

#endif  // TOOLS_STRATA_SIMULATE_ASTRA_H_
