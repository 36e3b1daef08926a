// What `strata simulate` can simulate: a file for each.

#ifndef TOOLS_STRATA_SIMULATE_H_
#define TOOLS_STRATA_SIMULATE_H_

#include "tools/strata/command.h"
#include "tools/strata/option_parser.h"

namespace strata {

// Adds `simulate` and what stands below it.
Command AddSimulate(OptionParser& app);

}  // namespace strata

#endif  // TOOLS_STRATA_SIMULATE_H_
