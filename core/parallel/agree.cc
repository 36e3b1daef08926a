#include "core/parallel/agree.h"

#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/base/status_macros.h"
#include "core/parallel/communicator.h"

namespace strata {
namespace {

constexpr int kTextBytes = 128;

// The first lines of two texts that differ.
std::pair<std::string, std::string> Differing(const std::string& a,
                                              const std::string& b) {
  const std::vector<std::string> lines_a = absl::StrSplit(a, '\n');
  const std::vector<std::string> lines_b = absl::StrSplit(b, '\n');
  const size_t num = std::max(lines_a.size(), lines_b.size());
  const auto line = [](const std::vector<std::string>& lines, size_t i) {
    return i < lines.size() ? lines[i] : std::string();
  };
  for (size_t i = 0; i < num; ++i) {
    if (line(lines_a, i) == line(lines_b, i)) continue;
    return {line(lines_a, i), line(lines_b, i)};
  }
  return {"", ""};
}

std::string OrNotGiven(const std::string& value) {
  return value.empty() ? "not given" : value;
}

}  // namespace

absl::StatusOr<std::string> TextOf(int root, const std::string& text,
                                   Communicator& ranks) {
  auto length = static_cast<int32_t>(text.size());
  RETURN_IF_ERROR(ranks.Broadcast(PayloadOf(absl::MakeSpan(&length, 1)), root));
  std::vector<uint8_t> bytes(text.begin(), text.end());
  bytes.resize(length);
  if (length > 0) {
    RETURN_IF_ERROR(ranks.Broadcast(PayloadOf(absl::MakeSpan(bytes)), root));
  }
  return std::string(bytes.begin(), bytes.end());
}

absl::StatusOr<std::vector<std::string>> TextsOf(const std::string& text,
                                                 Communicator& ranks) {
  std::vector<uint8_t> mine(text.begin(), text.end());
  mine.resize(kTextBytes - 1);
  mine.push_back(0);
  std::vector<uint8_t> all(kTextBytes * ranks.size());
  const std::vector<int64_t> counts(ranks.size(), kTextBytes);
  RETURN_IF_ERROR(ranks.AllGather(PayloadOf(absl::MakeSpan(mine)), counts,
                                  PayloadOf(absl::MakeSpan(all))));
  std::vector<std::string> texts;
  for (int r = 0; r < ranks.size(); ++r) {
    texts.emplace_back(reinterpret_cast<const char*>(&all[kTextBytes * r]));
  }
  return texts;
}

absl::StatusOr<std::vector<std::string>> HostsOf(Communicator& ranks) {
  char name[kTextBytes] = "";
  gethostname(name, sizeof(name) - 1);
  return TextsOf(name, ranks);
}

absl::StatusOr<Agreement> Agree(const absl::Status& status,
                                Communicator& ranks) {
  int32_t code = status.raw_code();
  std::vector<int32_t> codes(ranks.size());
  const std::vector<int64_t> counts(ranks.size(), 1);
  RETURN_IF_ERROR(ranks.AllGather(PayloadOf(absl::MakeSpan(&code, 1)), counts,
                                  PayloadOf(absl::MakeSpan(codes))));
  for (int r = 0; r < ranks.size(); ++r) {
    if (codes[r] == 0) continue;
    ASSIGN_OR_RETURN(const std::string message,
                     TextOf(r, std::string(status.message()), ranks));
    return Agreement{absl::Status(
        static_cast<absl::StatusCode>(codes[r]),
        r == 0 ? message : absl::StrCat("rank ", r, ": ", message))};
  }
  return Agreement();
}

absl::Status CheckSame(const std::vector<Setting>& settings,
                       Communicator& ranks) {
  // Names and values have no byte 0.
  std::string mine;
  for (const Setting& setting : settings) {
    absl::StrAppend(&mine, setting.name, absl::string_view("\0", 1),
                    setting.value, absl::string_view("\0", 1));
  }
  ASSIGN_OR_RETURN(const std::string first, TextOf(0, mine, ranks));
  const std::vector<std::string> of_first = absl::StrSplit(first, '\0');
  absl::Status status;
  for (size_t i = 0; i < settings.size() && status.ok(); ++i) {
    const size_t at = 2 * i;
    if (at + 1 >= of_first.size() || of_first[at] != settings[i].name) {
      status = absl::InvalidArgumentError(
          absl::StrCat("the program is not rank 0's, which knows no ",
                       settings[i].name, "; start the same on all ranks"));
    } else if (of_first[at + 1] != settings[i].value) {
      const auto [here, there] = Differing(settings[i].value, of_first[at + 1]);
      status = absl::InvalidArgumentError(absl::StrCat(
          settings[i].name, " is ", OrNotGiven(here), ", on rank 0 ",
          OrNotGiven(there), "; start all ranks alike"));
    }
  }
  ASSIGN_OR_RETURN(const Agreement agreement, Agree(status, ranks));
  return agreement.status;
}

}  // namespace strata
