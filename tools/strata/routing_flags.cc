#include "tools/strata/routing_flags.h"

#include "CLI/CLI.hpp"
#include "tools/strata/config_flags.h"
#include "training/routing_recording.h"

namespace strata {

void AddRecordRouting(CLI::App& app, RecordOptions& options) {
  CLI::Option* const record =
      app.add_option("--record-routing", options.path,
                     "Write a routing trace, for strata trace: which experts "
                     "did how much, step by step")
          ->type_name("FILE")
          ->check(CLI::Validator(
              [](const std::string& path) {
                return path.empty() ? std::string("want a file name")
                                    : std::string();
              },
              ""));
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

}  // namespace strata
