#include "tools/strata/cache_flags.h"

#include <string>

#include "core/quant/cache_format.h"
#include "tools/strata/option_parser.h"

namespace strata {

void AddCache(OptionParser& app, CacheOptions& cache) {
  app.AddOption(
         "--cache",
         // The check below comes first.
         [&cache](const std::string& name) {
           cache.format = CacheFormatOf(name).value_or(CacheFormat::kF32);
         },
         "How keys and values are kept (default: f32)")
      ->TypeName("f32|bf16|int8|int4")
      ->Check(OneOf({"f32", "bf16", "int8", "int4"}));
  app.AddOption("--attention-bits", cache.attention_bits,
                "Bits of attention's probabilities, as powers of two; 0: "
                "floats. Wants --cache int8 or int4")
      ->TypeName("0|4|5|6")
      ->Check(OneOf({"0", "4", "5", "6"}));
}

}  // namespace strata
