#include "tools/strata/routing_flags.h"

#include <string>

#include "core/model/gate.h"
#include "tools/strata/config_flags.h"
#include "tools/strata/option_parser.h"
#include "training/routing_recording.h"
#include "training/trainer.h"

namespace strata {

namespace {

ValueCheck FileName() {
  return [](const std::string& path) -> std::string {
    return path.empty() ? "want a file name" : "";
  };
}

}  // namespace

void AddRecordRouting(OptionParser& app, RecordOptions& options) {
  Option* const record =
      app.AddOption("--record-routing", options.path,
                    "Write a routing trace, for strata trace: which experts "
                    "did how much, step by step")
          ->TypeName("FILE")
          ->Check(FileName());
  app.AddFlag("--record-tokens", options.tokens,
              "With it: each token's choices too, not only counts")
      ->Needs(record);
  app.AddOption("--routing-ranks", options.num_ranks,
                "With it: count apart N contiguous parts of each batch")
      ->TypeName("N")
      ->Check(AtLeast(1))
      ->Needs(record);
  app.AddFlag("--overwrite-routing", options.overwrite,
              "With it: replace a FILE that exists; a resumed run, too, "
              "begins a new one")
      ->Needs(record);
}

void AddRoute(OptionParser& app, RouteOptions& options) {
  Option* const replay =
      app.AddOption(
             "--replay-routing",
             [&options](const std::string& path) {
               options.source = RouteSource::kReplay;
               options.replay = path;
             },
             "Choose the experts that a routing trace says, recorded by the "
             "same command with --record-tokens; weights are the model's own")
          ->TypeName("FILE")
          ->Check(FileName());
  app.AddOption(
         "--route",
         [&options](const std::string& route) {
           if (route == "forced-balance") {
             options.source = RouteSource::kBalanced;
           }
         },
         "Who chooses experts: gate, or forced-balance, which gives each "
         "expert as many tokens as any other (default: gate)")
      ->TypeName("NAME")
      ->Check(OneOf({"gate", "forced-balance"}))
      ->Excludes(replay);
}

}  // namespace strata
