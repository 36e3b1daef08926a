#include "core/base/progress.h"

#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdlib>
#include <limits>
#include <string>

#include "absl/time/time.h"
#include "core/base/files.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::HasSubstr;

ProgressFields Example() {
  ProgressFields fields;
  fields.label = "train";
  fields.step = 90;
  fields.num_steps = 200;
  fields.details = {"loss 2.31", "12.3K tok/s"};
  fields.time_left = absl::Seconds(42);
  return fields;
}

TEST(RenderProgressTest, ShowsEverythingWhereThereIsRoom) {
  // 78 columns leave 24 for the bar: 9 of the 22 inside are 45 %.
  EXPECT_EQ(
      RenderProgress(78, Example()),
      "train [========>             ] 45% step 90/200 loss 2.31 12.3K tok/s "
      "0:42 left");
  // The bar has 32 columns at most: 13 of the 30 inside are 45 %.
  EXPECT_EQ(RenderProgress(500, Example()),
            "train [============>                 ] 45% step 90/200 loss 2.31 "
            "12.3K tok/s 0:42 left");
}

TEST(RenderProgressTest, DropsWhatMattersLeastAsTheWidthShrinks) {
  const ProgressFields fields = Example();
  EXPECT_EQ(RenderProgress(60, fields),
            "train 45% step 90/200 loss 2.31 12.3K tok/s 0:42 left");
  EXPECT_EQ(RenderProgress(45, fields),
            "train 45% step 90/200 loss 2.31 0:42 left");
  EXPECT_EQ(RenderProgress(31, fields), "train 45% step 90/200 0:42 left");
  EXPECT_EQ(RenderProgress(30, fields), "train 45% step 90/200");
  EXPECT_EQ(RenderProgress(20, fields), "45% step 90/200");
  EXPECT_EQ(RenderProgress(10, fields), "45% step 9");
  EXPECT_EQ(RenderProgress(1, fields), "4");
  EXPECT_EQ(RenderProgress(0, fields), "");
  EXPECT_EQ(RenderProgress(-1, fields), "");
}

TEST(RenderProgressTest, NeverPassesTheWidth) {
  ProgressFields fields = Example();
  for (int step = 0; step <= 201; step += 3) {
    fields.step = step;
    for (int width = 0; width < 120; ++width) {
      EXPECT_LE(RenderProgress(width, fields).size(), width);
    }
  }
}

TEST(RenderProgressTest, CountsCharactersAndCutsBetweenThem) {
  ProgressFields fields;
  fields.label = "\xc3\xbc\xc3\xbc";  // Two characters of two bytes.
  fields.step = 7;
  EXPECT_EQ(RenderProgress(9, fields), "\xc3\xbc\xc3\xbc step 7");
  EXPECT_EQ(RenderProgress(8, fields), "step 7");
}

TEST(RenderProgressTest, DoesWithoutWhatIsUnknown) {
  ProgressFields fields;
  fields.label = "read";
  fields.step = 5;
  EXPECT_EQ(RenderProgress(80, fields), "read step 5");
  fields.num_steps = 4;  // More done than there are.
  EXPECT_THAT(RenderProgress(80, fields),
              HasSubstr("==============================] 100% step 5/4"));
}

TEST(FormatTest, CountsHaveThreeDigits) {
  EXPECT_EQ(FormatCount(0), "0");
  EXPECT_EQ(FormatCount(999.4), "999");
  EXPECT_EQ(FormatCount(999.5), "1.00K");
  EXPECT_EQ(FormatCount(12345), "12.3K");
  EXPECT_EQ(FormatCount(9994), "9.99K");
  EXPECT_EQ(FormatCount(9996), "10.0K");
  EXPECT_EQ(FormatCount(999499), "999K");
  EXPECT_EQ(FormatCount(999500), "1.00M");
  EXPECT_EQ(FormatCount(671.026e9), "671G");
  EXPECT_EQ(FormatCount(std::numeric_limits<double>::infinity()), "?");
}

TEST(FormatTest, DurationsAreClockTimes) {
  EXPECT_EQ(FormatClock(absl::ZeroDuration()), "0:00");
  EXPECT_EQ(FormatClock(absl::Seconds(41.6)), "0:42");
  EXPECT_EQ(FormatClock(absl::Seconds(3599.4)), "59:59");
  EXPECT_EQ(FormatClock(absl::Seconds(3599.5)), "1:00:00");
  EXPECT_EQ(FormatClock(absl::Hours(100)), "100:00:00");
  EXPECT_EQ(FormatClock(-absl::Seconds(5)), "0:00");
}

// Time stands still unless a test moves it.
class ProgressTest : public testing::Test {
 protected:
  ProgressTest() {
    options_.now = [this] { return now_; };
    options_.draw_interval = absl::Seconds(1);
    options_.line_interval = absl::Seconds(10);
  }

  absl::Time now_ = absl::UnixEpoch();
  ProgressOptions options_;
};

TEST_F(ProgressTest, WritesPlainLinesIntoAFile) {
  const std::string path = testing::TempDir() + "/progress";
  options_.fd = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  ASSERT_GE(options_.fd, 0);
  {
    Progress progress("train", /*first_step=*/100, /*num_steps=*/200, options_);
    for (int step = 101; step <= 199; ++step) {
      now_ += absl::Seconds(0.25);
      progress.Update(step, {"loss 1.5"});
      if (step == 150) progress.Print("saved");
    }
  }
  close(options_.fd);

  // Ten seconds are 40 steps; the last one, not yet drawn, ends it.
  EXPECT_EQ(*ReadFile(path),
            "train 50% step 101/200 loss 1.5 0:25 left\n"
            "train 70% step 141/200 loss 1.5 0:15 left\n"
            "saved\n"
            "train 90% step 181/200 loss 1.5 0:05 left\n"
            "train 99% step 199/200 loss 1.5 0:00 left\n");
}

// A pseudoterminal of a given width.
class ProgressOnTerminalTest : public ProgressTest {
 protected:
  ProgressOnTerminalTest() {
    setenv("TERM", "xterm", 1);
    EXPECT_EQ(openpty(&reader_, &options_.fd, nullptr, nullptr, nullptr), 0);
    SetWidth(80);
  }
  ~ProgressOnTerminalTest() override {
    close(reader_);
    close(options_.fd);
  }

  void SetWidth(int columns) {
    winsize size = {};
    size.ws_col = columns;
    size.ws_row = 24;
    EXPECT_EQ(ioctl(options_.fd, TIOCSWINSZ, &size), 0);
  }

  // What was written since the last call; something must have been.
  // A terminal passes on what is written to it in pieces, each when the kernel
  // comes to it: a read may find the first alone.
  std::string Read() {
    constexpr int kQuietMs = 200;
    std::string all;
    pollfd ready = {reader_, POLLIN, 0};
    while (poll(&ready, 1, kQuietMs) > 0 && (ready.revents & POLLIN) != 0) {
      char buffer[4096];
      const ssize_t num_read = read(reader_, buffer, sizeof(buffer));
      if (num_read <= 0) break;
      all.append(buffer, num_read);
    }
    return all;
  }

  int reader_ = -1;
};

TEST_F(ProgressOnTerminalTest, DrawsOneLineAgainAndAgain) {
  Progress progress("train", 0, 4, options_);

  progress.Update(1, {});
  EXPECT_EQ(Read(),
            "\rtrain [======>                       ] 25% step 1/4 0:00 left"
            "\x1b[K");
  now_ += absl::Seconds(0.9);
  progress.Update(2, {"not drawn, too early"});
  now_ += absl::Seconds(0.1);
  progress.Update(3, {"loss 2"});
  EXPECT_EQ(Read(),
            "\rtrain [=====================>        ] 75% step 3/4 loss 2 0:00 "
            "left\x1b[K");
  progress.Update(4, {"loss 1"});  // Early, but the last.
  EXPECT_EQ(Read(),
            "\rtrain [==============================] 100% step 4/4 loss 1 "
            "0:00 left\x1b[K");
  progress.Finish();
  EXPECT_EQ(Read(), "\r\n");  // The terminal adds the return.
  progress.Finish();
}

TEST_F(ProgressOnTerminalTest, FollowsTheWidthDownToNothing) {
  Progress progress("train", 0, 1000, options_);
  for (const int columns : {70, 21, 19, 5, 1}) {
    SetWidth(columns);
    now_ += absl::Seconds(1);
    progress.Update(columns, {"loss 2.5"});
    EXPECT_LE(Read().size(), 1 + (columns - 1) + 3);  // Return, text, escape.
  }
  SetWidth(0);  // The terminal does not know.
  now_ += absl::Seconds(1);
  progress.Update(900, {"loss 2.5"});
  EXPECT_THAT(Read(), HasSubstr("90% step 900/1000 loss 2.5"));
}

TEST_F(ProgressOnTerminalTest, PrintsLinesAboveTheBar) {
  Progress progress("train", 0, 4, options_);
  progress.Print("before the bar");
  EXPECT_EQ(Read(), "before the bar\r\n");
  progress.Update(2, {});
  Read();

  progress.Print("saved");

  EXPECT_EQ(Read(),
            "\r\x1b[Ksaved\r\n"
            "\rtrain [==============>               ] 50% step 2/4 0:00 left"
            "\x1b[K");
}

TEST_F(ProgressOnTerminalTest, DrawsNoEscapesOnADumbTerminal) {
  setenv("TERM", "dumb", 1);
  Progress progress("train", 0, 4, options_);
  progress.Update(2, {});
  EXPECT_EQ(Read(), "train 50% step 2/4 0:00 left\r\n");
}

}  // namespace
}  // namespace strata
