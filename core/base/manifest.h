// The manifest: what a result was made from, so that it can be made again.
//
//   Manifest manifest = NewManifest();
//   manifest.data_hash = data.hash();
//   manifest.seeds["data"] = options.data_seed;
//   report["manifest"] = ToJson(manifest);
//
// Every checkpoint, report and metrics file carries one.

#ifndef CORE_BASE_MANIFEST_H_
#define CORE_BASE_MANIFEST_H_

#include <cstdint>
#include <map>
#include <string>

#include "nlohmann/json.hpp"

namespace strata {

struct Machine {
  std::string cpu_model;     // As the processor names itself.
  int num_cores = 0;         // That this process may use.
  int64_t memory_bytes = 0;  // Likewise.
};

Machine MachineDescription();

struct Manifest {
  std::string version;
  std::string commit;
  // SHA-256 in hexadecimal; empty for what took no part in the result.
  std::string config_hash;
  std::string data_hash;
  std::string weights_hash;
  std::map<std::string, uint64_t> seeds;  // By what they seed.
  Machine machine;
  std::string date;  // UTC, as in 2025-01-31T23:59:59Z.
};

// Version, commit, machine and date are set.
Manifest NewManifest();

// An object with the fields above as keys; empty hashes are left out.
nlohmann::json ToJson(const Manifest& manifest);

}  // namespace strata

#endif  // CORE_BASE_MANIFEST_H_
