// What tests of the program share: running it as a user would, on a tiny model
// and corpus.

#ifndef TOOLS_STRATA_STRATA_FIXTURE_H_
#define TOOLS_STRATA_STRATA_FIXTURE_H_

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace strata {

// The program, from where tests run.
inline constexpr char kBinary[] = "tools/strata/strata";

std::string ReadAll(const std::filesystem::path& path);
void WriteAll(const std::filesystem::path& path, const std::string& contents);

struct Result {
  int exit_code = 0;  // Negative: the signal that killed it.
  std::string out;
  std::string err;
};

struct RunSettings {
  int64_t max_file_bytes = 0;  // 0: no limit. A full disk in small.
  // Interrupts once this many steps are in the metrics file of that run.
  int64_t interrupt_after = 0;
  std::string run;
};

// Steps in the metrics of a run.
int64_t NumSteps(const std::string& run);

// Runs the program and waits for it.
Result Strata(std::vector<std::string> args, const RunSettings& settings = {});

// One line on stderr that has `words`, none of stdout, and a status of failure.
void ExpectFailure(const Result& result, int exit_code,
                   const std::vector<std::string>& words);

// Flags for a model of some ten thousand parameters, and steps of 64 tokens.
std::vector<std::string> Tiny();

std::vector<std::string> operator+(std::vector<std::string> a,
                                   const std::vector<std::string>& b);

class StrataTest : public ::testing::Test {
 protected:
  // Four domains of two files each, the same for all tests, and a run.
  static void SetUpTestSuite();

  // A path of that name, where nothing is.
  static std::string Folder(const std::string& name);

  // `run_` quantised to `out`, roughly and soon, with more flags.
  static Result Quantize(const std::string& out,
                         const std::vector<std::string>& more);
  // A number of bytes for which some experts of `run_` get 4 and others 8 bits.
  static int64_t MixedBudget();

  // The flags of a training of the tiny model on that data.
  static std::vector<std::string> Train(const std::string& out, int steps);

  static std::string* data_;
  static std::string* run_;  // Seven steps of a tiny model.
};

}  // namespace strata

#endif  // TOOLS_STRATA_STRATA_FIXTURE_H_
