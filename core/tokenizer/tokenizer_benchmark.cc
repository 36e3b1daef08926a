// bazel run -c opt //core/tokenizer:tokenizer_benchmark -- TOKENIZER.json TEXT
//
// Encodes a text with a tokenizer.json, on one thread, the caches of the
// machine and of the tokenizer warm as they are in the middle of a corpus.
// Prints tokens and bytes per second of CPU time, and the ratio to the Rust
// implementation, which takes about 3 s for 1 M tokens of such English text on
// one core.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <ctime>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/base/files.h"
#include "core/tokenizer/tokenizer.h"

namespace strata {
namespace {

constexpr double kRustTokensPerSecond = 1e6 / 3;
constexpr int kRuns = 7;
constexpr size_t kMinBytes = 4 << 20;

// Of this process, which has one thread: what other jobs of the machine take
// does not count.
double CpuSeconds() {
  return static_cast<double>(std::clock()) / CLOCKS_PER_SEC;
}

int Run(const std::string& tokenizer_path, const std::string& text_path) {
  const double start = CpuSeconds();
  const absl::StatusOr<Tokenizer> tokenizer = Tokenizer::Load(tokenizer_path);
  const double load_seconds = CpuSeconds() - start;
  const absl::StatusOr<std::string> file = ReadFile(text_path);
  if (!tokenizer.ok() || !file.ok() || file->empty()) {
    std::fprintf(stderr, "%s %s\n", tokenizer.status().ToString().c_str(),
                 file.status().ToString().c_str());
    return 1;
  }
  std::string text;
  while (text.size() < kMinBytes) text += *file;

  std::vector<double> seconds;
  std::vector<int32_t> ids;
  for (int run = 0; run < kRuns; ++run) {
    const double begin = CpuSeconds();
    ids = tokenizer->Encode(text);
    seconds.push_back(CpuSeconds() - begin);
  }
  std::sort(seconds.begin(), seconds.end());
  const double median = seconds[kRuns / 2];
  const double tokens_per_second = static_cast<double>(ids.size()) / median;

  const double begin = CpuSeconds();
  const absl::StatusOr<std::string> decoded = tokenizer->Decode(ids);
  const double decode_seconds = CpuSeconds() - begin;
  std::printf(
      "load    %.3f s\n"
      "encode  %zu bytes, %zu tokens: median %.3f s (%.3f to %.3f of %d)\n"
      "        %.2f M tokens/s, %.1f MB/s, %.1f times the Rust implementation\n"
      "decode  %.3f s, %.2f M tokens/s, text %s\n",
      load_seconds, text.size(), ids.size(), median, seconds.front(),
      seconds.back(), kRuns, tokens_per_second / 1e6,
      static_cast<double>(text.size()) / median / 1e6,
      tokens_per_second / kRustTokensPerSecond, decode_seconds,
      static_cast<double>(ids.size()) / decode_seconds / 1e6,
      decoded.ok() && *decoded == text ? "equal" : "DIFFERENT");
  return decoded.ok() && *decoded == text ? 0 : 1;
}

}  // namespace
}  // namespace strata

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: tokenizer_benchmark TOKENIZER.json TEXT\n");
    return 2;
  }
  return strata::Run(argv[1], argv[2]);
}
