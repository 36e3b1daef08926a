// strata calibrate --collectives

#ifndef TOOLS_STRATA_CALIBRATE_LINKS_H_
#define TOOLS_STRATA_CALIBRATE_LINKS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace strata {

struct LinkFlags {
  std::vector<std::string> files;  // As nccl_benchmark writes them.
  std::string like;                // A preset of sim/cluster; "": the GPU's.
  std::vector<int32_t> gpus;       // Rows over so many; empty: all.
  std::string out;
  std::string origin;
  bool json = false;
};

absl::StatusOr<int> RunCalibrateLinks(const LinkFlags& flags);

}  // namespace strata

#endif  // TOOLS_STRATA_CALIBRATE_LINKS_H_
