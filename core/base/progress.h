// Progress of a long run on one line of the terminal:
//
//   train [======>        ] 45% step 90/200 loss 2.31 12.3K tok/s 0:42 left
//
// The line is cut to the terminal's width, which is read at each draw. Where
// stderr is no terminal, it is a plain line from time to time.

#ifndef CORE_BASE_PROGRESS_H_
#define CORE_BASE_PROGRESS_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace strata {

struct ProgressFields {
  std::string label;
  int64_t step = 0;
  int64_t num_steps = 0;  // 0 if unknown: then there is no bar and no share.
  std::vector<std::string> details;  // "loss 2.31", the important one first.
  absl::Duration time_left = absl::InfiniteDuration();  // Infinite if unknown.
  bool has_bar = true;
};

// The line, of at most `width` columns. As the width shrinks, the bar goes
// first, then the details from the last, the time left, the label; what remains
// is cut.
std::string RenderProgress(int width, const ProgressFields& fields);

// "999", "12.3K", "4.57M": three digits.
std::string FormatCount(double count);

// "0:42", "59:07", "2:00:00"; rounded to seconds.
std::string FormatClock(absl::Duration duration);

struct ProgressOptions {
  int fd = 2;                                              // Stderr.
  absl::Duration draw_interval = absl::Milliseconds(100);  // On a terminal.
  absl::Duration line_interval = absl::Seconds(10);        // Elsewhere.
  std::function<absl::Time()> now = absl::Now;
};

// Not thread-safe. Errors in writing are ignored.
class Progress {
 public:
  // `first_step` steps were done before, by the run that this one resumes.
  Progress(absl::string_view label, int64_t first_step, int64_t num_steps,
           ProgressOptions options = {});

  // Ends the line.
  ~Progress();

  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // `step` steps are done now. Draws only if the last drawing is old enough, so
  // that it may be called at any rate; the last step is always drawn.
  void Update(int64_t step, std::vector<std::string> details);

  // Writes a line of its own above the progress.
  void Print(absl::string_view line);

  // Draws the last update if it is not drawn yet, and ends the line.
  void Finish();

 private:
  void Draw();
  void Write(absl::string_view text);

  const ProgressOptions options_;
  const bool is_terminal_;
  const absl::Time start_;
  const int64_t first_step_;
  ProgressFields fields_;
  absl::Time next_draw_;
  bool has_update_ = false;  // That is not yet drawn.
  bool line_is_open_ = false;
};

}  // namespace strata

#endif  // CORE_BASE_PROGRESS_H_
