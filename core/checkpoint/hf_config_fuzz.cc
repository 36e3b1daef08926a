// config.json of public checkpoints: to our config and back.

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "core/base/check.h"
#include "core/checkpoint/hf_config.h"
#include "core/checkpoint/tiny_checkpoints.h"
#include "core/model/config.h"
#include "core/testing/fuzz_target.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace strata;
  const absl::string_view text(reinterpret_cast<const char*>(data), size);
  const auto config = ModelConfigFromHf(text);
  if (!config.ok()) {
    CHECK(absl::IsInvalidArgument(config.status()) ||
          absl::IsUnimplemented(config.status()))
        << config.status();
    CHECK(!config.status().message().empty());
    return 0;
  }
  const absl::Status valid = Validate(*config);
  CHECK(valid.ok()) << valid;
  // What was read has a public form, which reads the same.
  const auto back = HfConfigText(*config, "bfloat16");
  CHECK(back.ok()) << back.status();
  auto again = ModelConfigFromHf(*back);
  CHECK(again.ok()) << again.status() << "\n" << *back;
  again->set_name(config->name());  // It is a public model_type or nothing.
  CHECK(ToJson(*again) == ToJson(*config)) << ToJson(*config) << "\n"
                                           << ToJson(*again);
  return 0;
}

namespace strata {

std::vector<std::string> FuzzSeeds() {
  std::vector<std::string> seeds;
  for (const TinyConfig& config : TinyConfigs()) seeds.push_back(config.json);
  return seeds;
}

}  // namespace strata
