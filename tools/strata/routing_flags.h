// The flags of subcommands that can record a routing trace.

#ifndef TOOLS_STRATA_ROUTING_FLAGS_H_
#define TOOLS_STRATA_ROUTING_FLAGS_H_

#include "CLI/CLI.hpp"
#include "training/routing_recording.h"

namespace strata {

// --record-routing, and what it may be given along with.
void AddRecordRouting(CLI::App& app, RecordOptions& options);

}  // namespace strata

#endif  // TOOLS_STRATA_ROUTING_FLAGS_H_
