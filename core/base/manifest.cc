#include "core/base/manifest.h"

#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "core/base/build_info.h"
#include "core/base/files.h"
#include "core/base/thread_pool.h"
#include "nlohmann/json.hpp"

namespace strata {
namespace {

std::string CpuModel() {
  const absl::StatusOr<std::string> info = ReadFile("/proc/cpuinfo");
  if (!info.ok()) return "unknown";
  for (absl::string_view line : absl::StrSplit(*info, '\n')) {
    if (!absl::ConsumePrefix(&line, "model name")) continue;
    const std::pair<absl::string_view, absl::string_view> parts =
        absl::StrSplit(line, absl::MaxSplits(':', 1));
    return std::string(absl::StripAsciiWhitespace(parts.second));
  }
  return "unknown";
}

int64_t MemoryBytes() {
  int64_t bytes = int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE);
  // The limit of the control group; "max" where there is none.
  const absl::StatusOr<std::string> text =
      ReadFile("/sys/fs/cgroup/memory.max");
  int64_t limit_bytes = 0;
  if (text.ok() && absl::SimpleAtoi(*text, &limit_bytes)) {
    bytes = std::min(bytes, limit_bytes);
  }
  return bytes;
}

}  // namespace

Machine MachineDescription() {
  return {CpuModel(), NumUsableCores(), MemoryBytes()};
}

Manifest NewManifest() {
  Manifest manifest;
  manifest.version = std::string(Version());
  manifest.commit = std::string(Commit());
  manifest.machine = MachineDescription();
  manifest.date = absl::FormatTime("%Y-%m-%d%ET%H:%M:%SZ", absl::Now(),
                                   absl::UTCTimeZone());
  return manifest;
}

nlohmann::json ToJson(const Manifest& manifest) {
  nlohmann::json json = {
      {"version", manifest.version},
      {"commit", manifest.commit},
      {"seeds", nlohmann::json(manifest.seeds)},
      {"machine",
       {{"cpu_model", manifest.machine.cpu_model},
        {"num_cores", manifest.machine.num_cores},
        {"memory_bytes", manifest.machine.memory_bytes}}},
      {"date", manifest.date},
  };
  const auto add_hash = [&json](const char* key, const std::string& hash) {
    if (!hash.empty()) json[key] = hash;
  };
  add_hash("config_hash", manifest.config_hash);
  add_hash("data_hash", manifest.data_hash);
  add_hash("weights_hash", manifest.weights_hash);
  return json;
}

}  // namespace strata
