// The flags of subcommands that run the gates: recording what they choose, or
// choosing in their place.

#ifndef TOOLS_STRATA_ROUTING_FLAGS_H_
#define TOOLS_STRATA_ROUTING_FLAGS_H_

#include "tools/strata/option_parser.h"
#include "training/routing_recording.h"
#include "training/trainer.h"

namespace strata {

// --record-routing, and what it may be given along with.
void AddRecordRouting(OptionParser& app, RecordOptions& options);

// --replay-routing and --route.
void AddRoute(OptionParser& app, RouteOptions& options);

}  // namespace strata

#endif  // TOOLS_STRATA_ROUTING_FLAGS_H_
