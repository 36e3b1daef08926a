#include "core/base/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace strata {
namespace {

constexpr int kMinBarWidth = 10;  // With its brackets.
constexpr int kMaxBarWidth = 32;
constexpr int kDefaultWidth = 80;
constexpr int kUnlimitedWidth = 1 << 20;

// Clears from the cursor to the end of the line.
constexpr absl::string_view kClearToEnd = "\x1b[K";

bool IsContinuationByte(char c) { return (c & 0xC0) == 0x80; }

// Columns that UTF-8 text takes, if each character takes one.
int NumColumns(absl::string_view text) {
  return static_cast<int>(text.size() - std::count_if(text.begin(), text.end(),
                                                      IsContinuationByte));
}

// The first `num_columns` characters.
std::string CutTo(absl::string_view text, int num_columns) {
  size_t end = 0;
  for (; end < text.size(); ++end) {
    if (!IsContinuationByte(text[end]) && num_columns-- <= 0) break;
  }
  return std::string(text.substr(0, end));
}

// "[====>    ]"
std::string Bar(int width, double share) {
  const int inside = width - 2;
  const int filled = static_cast<int>(share * inside);
  std::string bar(inside, ' ');
  std::fill_n(bar.begin(), filled, '=');
  if (filled > 0 && filled < inside) bar[filled - 1] = '>';
  return absl::StrCat("[", bar, "]");
}

// Whether the escape above works on `fd`.
bool IsTerminal(int fd) {
  const char* const term = std::getenv("TERM");
  return isatty(fd) != 0 && (term == nullptr || std::string(term) != "dumb");
}

int TerminalWidth(int fd) {
  winsize size;
  if (ioctl(fd, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) {
    return kDefaultWidth;
  }
  return size.ws_col;
}

}  // namespace

std::string RenderProgress(int width, const ProgressFields& fields) {
  const double share =
      fields.num_steps > 0
          ? std::min(1.0, std::max(0.0, static_cast<double>(fields.step) /
                                            fields.num_steps))
          : 0;
  std::string label = fields.label;
  std::string position = absl::StrCat("step ", fields.step);
  if (fields.num_steps > 0) {
    position = absl::StrCat(static_cast<int>(share * 100), "% ", position, "/",
                            fields.num_steps);
  }
  std::vector<std::string> details = fields.details;
  std::string time_left;
  if (fields.time_left < absl::InfiniteDuration()) {
    time_left = absl::StrCat(FormatClock(fields.time_left), " left");
  }

  // All but the label and the bar.
  const auto rest = [&] {
    std::vector<std::string> parts = {position};
    parts.insert(parts.end(), details.begin(), details.end());
    if (!time_left.empty()) parts.push_back(time_left);
    return absl::StrJoin(parts, " ");
  };
  const auto label_width = [&] {
    return label.empty() ? 0 : NumColumns(label) + 1;
  };
  while (label_width() + NumColumns(rest()) > width) {
    if (!details.empty()) {
      details.pop_back();
    } else if (!time_left.empty()) {
      time_left.clear();
    } else if (!label.empty()) {
      label.clear();
    } else {
      return CutTo(rest(), std::max(0, width));
    }
  }

  std::string line = label.empty() ? "" : absl::StrCat(label, " ");
  const int bar_width =
      std::min(kMaxBarWidth, width - label_width() - NumColumns(rest()) - 1);
  if (fields.has_bar && fields.num_steps > 0 && bar_width >= kMinBarWidth) {
    absl::StrAppend(&line, Bar(bar_width, share), " ");
  }
  return line + rest();
}

std::string FormatCount(double count) {
  if (!std::isfinite(count)) return "?";
  // Where rounding to three digits would print 1000, the next unit takes over.
  constexpr absl::string_view kUnits[] = {"", "K", "M", "G", "T", "P"};
  size_t unit = 0;
  for (; std::abs(count) >= 999.5 && unit + 1 < std::size(kUnits); ++unit) {
    count /= 1000;
  }
  const double size = std::abs(count);
  const int decimals = unit == 0 ? 0 : size < 9.995 ? 2 : size < 99.95 ? 1 : 0;
  return absl::StrFormat("%.*f%s", decimals, count, kUnits[unit]);
}

std::string FormatClock(absl::Duration duration) {
  const int64_t seconds = std::max<int64_t>(
      0, absl::ToInt64Seconds(duration + absl::Milliseconds(500)));
  if (seconds < 3600) {
    return absl::StrFormat("%d:%02d", seconds / 60, seconds % 60);
  }
  return absl::StrFormat("%d:%02d:%02d", seconds / 3600, seconds / 60 % 60,
                         seconds % 60);
}

Progress::Progress(absl::string_view label, int64_t first_step,
                   int64_t num_steps, ProgressOptions options)
    : options_(std::move(options)),
      is_terminal_(IsTerminal(options_.fd)),
      start_(options_.now()),
      first_step_(first_step),
      next_draw_(start_) {
  fields_.label = std::string(label);
  fields_.step = first_step;
  fields_.num_steps = num_steps;
}

Progress::~Progress() { Finish(); }

void Progress::Update(int64_t step, std::vector<std::string> details) {
  const absl::Time now = options_.now();
  fields_.step = step;
  fields_.details = std::move(details);
  has_update_ = true;
  const int64_t num_done = step - first_step_;
  fields_.time_left = absl::InfiniteDuration();
  if (fields_.num_steps > 0 && num_done > 0) {
    const double steps_left = std::max<int64_t>(0, fields_.num_steps - step);
    fields_.time_left = (now - start_) * (steps_left / num_done);
  }
  const bool is_last = fields_.num_steps > 0 && step >= fields_.num_steps;
  if (now >= next_draw_ || is_last) {
    next_draw_ =
        now + (is_terminal_ ? options_.draw_interval : options_.line_interval);
    Draw();
  }
}

void Progress::Print(absl::string_view line) {
  if (line_is_open_) Write(absl::StrCat("\r", kClearToEnd));
  Write(absl::StrCat(line, "\n"));
  if (line_is_open_) Draw();
}

void Progress::Finish() {
  if (has_update_) Draw();
  if (line_is_open_) Write("\n");
  line_is_open_ = false;
}

void Progress::Draw() {
  has_update_ = false;
  if (!is_terminal_) {
    ProgressFields fields = fields_;
    fields.has_bar = false;  // Of no use in a log.
    Write(absl::StrCat(RenderProgress(kUnlimitedWidth, fields), "\n"));
    return;
  }
  // In the last column some terminals already wrap.
  const int width = TerminalWidth(options_.fd) - 1;
  Write(absl::StrCat("\r", RenderProgress(width, fields_), kClearToEnd));
  line_is_open_ = true;
}

void Progress::Write(absl::string_view text) {
  while (!text.empty()) {
    const ssize_t put = write(options_.fd, text.data(), text.size());
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) return;
    text.remove_prefix(put);
  }
}

}  // namespace strata
