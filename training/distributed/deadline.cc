#include "training/distributed/deadline.h"

#include <cstdio>
#include <cstdlib>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"

namespace strata {

Deadline::Deadline(absl::Duration limit, std::string what)
    : watch_([this, limit, what = std::move(what)] {
        if (met_.WaitForNotificationWithTimeout(limit)) return;
        const std::string line = absl::StrCat(
            "error: ", what, " for ", absl::FormatDuration(limit), "\n");
        std::fputs(line.c_str(), stderr);
        std::_Exit(1);
      }) {}

Deadline::~Deadline() {
  met_.Notify();
  watch_.join();
}

}  // namespace strata
