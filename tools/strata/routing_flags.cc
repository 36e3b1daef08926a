#include "tools/strata/routing_flags.h"

#include <string>

#include "CLI/CLI.hpp"
#include "core/model/gate.h"
#include "tools/strata/config_flags.h"
#include "training/routing_recording.h"
#include "training/trainer.h"

namespace strata {

namespace {

CLI::Validator FileName() {
  return CLI::Validator(
      [](const std::string& path) {
        return path.empty() ? std::string("want a file name") : std::string();
      },
      "");
}

}  // namespace

void AddRecordRouting(CLI::App& app, RecordOptions& options) {
  CLI::Option* const record =
      app.add_option("--record-routing", options.path,
                     "Write a routing trace, for strata trace: which experts "
                     "did how much, step by step")
          ->type_name("FILE")
          ->check(FileName());
  app.add_flag("--record-tokens", options.tokens,
               "With it: each token's choices too, not only counts")
      ->needs(record);
  app.add_option("--routing-ranks", options.num_ranks,
                 "With it: count apart N contiguous parts of each batch")
      ->type_name("N")
      ->check(AtLeast(1))
      ->needs(record);
  app.add_flag("--overwrite-routing", options.overwrite,
               "With it: replace a FILE that exists; a resumed run, too, "
               "begins a new one")
      ->needs(record);
}

void AddRoute(CLI::App& app, RouteOptions& options) {
  CLI::Option* const replay =
      app.add_option_function<std::string>(
             "--replay-routing",
             [&options](const std::string& path) {
               options.source = RouteSource::kReplay;
               options.replay = path;
             },
             "Choose the experts that a routing trace says, recorded by the "
             "same command with --record-tokens; weights are the model's own")
          ->type_name("FILE")
          ->check(FileName());
  app.add_option_function<std::string>(
         "--route",
         [&options](const std::string& route) {
           if (route == "forced-balance") {
             options.source = RouteSource::kBalanced;
           }
         },
         "Who chooses experts: gate, or forced-balance, which gives each "
         "expert as many tokens as any other (default: gate)")
      ->type_name("NAME")
      ->check(CLI::Validator(
          [](const std::string& route) {
            return route == "gate" || route == "forced-balance"
                       ? std::string()
                       : "is \"" + route + "\"; want gate or forced-balance";
          },
          ""))
      ->excludes(replay);
}

}  // namespace strata
