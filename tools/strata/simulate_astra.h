// strata simulate astra

#ifndef TOOLS_STRATA_SIMULATE_ASTRA_H_
#define TOOLS_STRATA_SIMULATE_ASTRA_H_

#include "tools/strata/command.h"
#include "tools/strata/option_parser.h"

namespace strata {

// Adds `astra` below `simulate`.
Command AddSimulateAstra(OptionParser& simulate);

}  // namespace strata

#endif  // TOOLS_STRATA_SIMULATE_ASTRA_H_
