// tools/llama_cpp/compare FOLDER [ROUNDS [WHAT...]]
//
// Decoding and prefill of a mixture of experts of 1.0 billion random weights
// (serving/engine/benchmark_models.h, with queries and keys normalised, as
// qwen3moe has them) by llama.cpp and here, in turns, in one process:
//
//   prefill   512 tokens, logits of the last
//   decoding  128 tokens, random ones, behind another
//
// Medians over rounds, and of the ratios also mean, standard deviation and each
// round's; in each round every side runs once, and the bandwidth of a large
// read by as many threads is measured before and after. "of limit" is the bytes
// a token must read over that bandwidth, over the time it took. "undisturbed"
// is decoding as fast as the quickest tenth of a round's tokens, which is what
// a busy machine leaves of an idle one. WHAT: formats (INT4, INT8, BF16) and
// numbers of threads (threads=2), all of which run if none is named, and
// `decode` to leave prompts out.
//
// Formats go in pairs: Q4_0 and INT4, Q8_0 and INT8, F16 and BF16; groups are
// of 32, and both sides have the output projection in 8 bits beside 4. With
// STRATA_PROFILE=1 in the environment our time by operator goes to stderr.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <numeric>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/base/status_macros.h"
#include "core/cpu/all_kernels.h"
#include "core/cpu/cpu_backend.h"
#include "core/model/config.pb.h"
#include "core/runtime/program.h"
#include "core/runtime/state_store.h"
#include "core/testing/read_bandwidth.h"
#include "serving/engine/benchmark_models.h"
#include "serving/engine/generator.h"
#include "tools/llama_cpp/library.h"
#include "tools/llama_cpp/random_gguf.h"

namespace strata {
namespace {

constexpr int64_t kContext = 1024;
constexpr int64_t kPromptTokens = 512;
constexpr int64_t kNewTokens = 128;

struct Pair {
  const char* theirs;
  const char* ours;
  GgufWeights weights;
};
constexpr Pair kPairs[] = {{"Q4_0", "INT4", GgufWeights::kQ4_0},
                           {"Q8_0", "INT8", GgufWeights::kQ8_0},
                           {"F16", "BF16", GgufWeights::kF16}};

double Median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// Mean, standard deviation of one, and all of them in their order.
std::string Spread(const std::vector<double>& values) {
  double sum = 0, squares = 0;
  for (const double x : values) sum += x;
  const double mean = sum / static_cast<double>(values.size());
  for (const double x : values) squares += (x - mean) * (x - mean);
  const auto others = static_cast<double>(values.size() - 1);
  std::string text =
      absl::StrFormat("mean %.2f, sd %.2f:", mean,
                      others > 0 ? std::sqrt(squares / others) : 0);
  for (const double x : values) absl::StrAppendFormat(&text, " %.2f", x);
  return text;
}

std::string LoadAverage() {
  std::string load;
  std::ifstream("/proc/loadavg") >> load;
  return load;
}

// What is to be measured; of nothing, everything.
struct What {
  int rounds = 5;
  std::set<std::string> formats;
  std::set<int> threads;
  bool prefill = true;

  // Whether `word` says some of it.
  bool Take(const std::string& word) {
    constexpr absl::string_view kThreads = "threads=";
    int number = 0;
    if (word == "decode") {
      prefill = false;
    } else if (absl::StartsWith(word, kThreads) &&
               absl::SimpleAtoi(word.substr(kThreads.size()), &number) &&
               number > 0) {
      threads.insert(number);
    } else if (std::any_of(std::begin(kPairs), std::end(kPairs),
                           [&](const Pair& p) { return word == p.ours; })) {
      formats.insert(word);
    } else {
      return false;
    }
    return true;
  }
};

// What one side did in all rounds.
struct Rates {
  std::vector<double> prefill, decode, undisturbed, of_limit;

  // `seconds`: of each token.
  void AddDecode(std::vector<double> seconds, double bytes, double bandwidth) {
    const double sum = std::accumulate(seconds.begin(), seconds.end(), 0.0);
    const auto tokens = static_cast<double>(seconds.size());
    decode.push_back(tokens / sum);
    of_limit.push_back(tokens / sum * bytes / bandwidth);
    const auto tenth = seconds.begin() + seconds.size() / 10;
    std::nth_element(seconds.begin(), tenth, seconds.end());
    undisturbed.push_back(1 / *tenth);
  }
  void Print(const char* name, double bytes) const {
    std::printf("  %-16s %8.1f %8.1f %8.1f %6.2f %11.1f\n", name,
                Median(prefill), Median(decode), bytes / 1e6, Median(of_limit),
                Median(undisturbed));
  }
};

void PrintProfile(const char* what, const std::vector<Program::OpTime>& profile,
                  double tokens) {
  for (const Program::OpTime& op : profile) {
    std::fprintf(stderr, "%-8s %-24s %8.1f us a token\n", what, op.op.c_str(),
                 1e6 * op.seconds / tokens);
  }
}

std::vector<int32_t> RandomIds(int64_t count, int64_t vocabulary, uint64_t x) {
  std::vector<int32_t> ids(count);
  for (int32_t& id : ids) {
    x = x * 6364136223846793005u + 1442695040888963407u;
    id = static_cast<int32_t>((x >> 33) % static_cast<uint64_t>(vocabulary));
  }
  return ids;
}

absl::Status Fill(const ModelConfig& config, GgufWeights weights,
                  StateStore& store) {
  if (weights == GgufWeights::kF16) return FillNarrow(config, store);
  const int bits = weights == GgufWeights::kQ8_0 ? 8 : 4;
  return FillQuantised(config, {bits, 32, true}, store);
}

// One round of ours; of a generator for as many threads as `read` uses.
absl::Status RunOurs(Generator& generator, const std::vector<int32_t>& prompt,
                     bool prefill, double bytes, const ReadBandwidth& read,
                     Rates& rates) {
  GenerateOptions options;
  options.sampling.temperature = 0;
  if (prefill) {
    options.max_new_tokens = 0;
    RETURN_IF_ERROR(generator.Generate(prompt, options).status());
    rates.prefill.push_back(static_cast<double>(kPromptTokens) /
                            generator.stats().prefill_seconds);
  }
  // What comes behind the prompt's token was computed with it.
  options.max_new_tokens = kNewTokens + 1;
  options.given.assign(prompt.begin() + 1, prompt.begin() + kNewTokens + 2);
  const double before = read.Measure();
  using Clock = std::chrono::steady_clock;
  std::vector<double> seconds;
  Clock::time_point start;
  const auto on_token = [&](int32_t) {
    const Clock::time_point end = Clock::now();
    if (start != Clock::time_point()) {
      seconds.push_back(std::chrono::duration<double>(end - start).count());
    }
    start = end;
    return true;
  };
  RETURN_IF_ERROR(generator.Generate({prompt[0]}, options, on_token).status());
  const double after = read.Measure();
  rates.AddDecode(std::move(seconds), bytes, (before + after) / 2);
  return absl::OkStatus();
}

absl::Status RunTheirs(LlamaCppModel& model, const std::vector<int32_t>& prompt,
                       bool prefill, int threads, double bytes,
                       const ReadBandwidth& read, Rates& rates) {
  if (prefill) {
    ASSIGN_OR_RETURN(const double seconds, model.Prefill(prompt, threads));
    rates.prefill.push_back(static_cast<double>(kPromptTokens) / seconds);
  }
  const double before = read.Measure();
  ASSIGN_OR_RETURN(
      std::vector<double> seconds,
      model.Decode(absl::MakeConstSpan(prompt).first(kNewTokens + 1), threads));
  const double after = read.Measure();
  rates.AddDecode(std::move(seconds), bytes, (before + after) / 2);
  return absl::OkStatus();
}

absl::Status Compare(const std::string& folder, const Pair& pair,
                     const What& what) {
  ASSIGN_OR_RETURN(ModelConfig config, BenchmarkModel("moe_1b"));
  config.set_max_seq_len(kContext);
  config.mutable_attention()->set_qk_norm(true);

  const std::string path = (std::filesystem::temp_directory_path() /
                            absl::StrCat("strata-", pair.theirs, ".gguf"))
                               .string();
  ASSIGN_OR_RETURN(const RandomGguf file,
                   WriteRandomGguf(config, pair.weights, path));
  absl::StatusOr<std::unique_ptr<LlamaCppModel>> theirs =
      LlamaCppModel::Open(folder, path, kContext);
  // Mapped by now, if it is mapped at all.
  std::filesystem::remove(path);
  RETURN_IF_ERROR(theirs.status());
  std::printf("%s\n", (*theirs)->Description().c_str());

  for (const int threads :
       what.threads.empty() ? std::set<int>{1, 2} : what.threads) {
    CpuBackend backend(threads, AllCpuKernels());
    StateStore store(backend);
    RETURN_IF_ERROR(Fill(config, pair.weights, store));
    ASSIGN_OR_RETURN(
        const std::unique_ptr<Generator> ours,
        Generator::Create(config, backend, store, /*fuse=*/true,
                          /*cache=*/{}, Generator::kLongPrefillTokens));
    const char* const profile = std::getenv("STRATA_PROFILE");
    if (profile != nullptr) ours->EnableProfile();
    const ReadBandwidth read(backend.pool());
    const double our_bytes = ours->MinBytesPerToken(kNewTokens / 2);
    // Keys and values are F16 there, F32 here.
    const double their_cache = static_cast<double>(
        config.num_layers() * kNewTokens * 2 *
        config.attention().num_kv_heads() * config.attention().head_dim());
    const double their_bytes = file.bytes_per_token + their_cache;

    Rates our_rates, their_rates;
    std::vector<double> decode, undisturbed, prefill;
    for (int round = 0; round <= what.rounds; ++round) {
      if (round == 1) our_rates = their_rates = Rates();  // 0 warms up.
      const std::vector<int32_t> prompt =
          RandomIds(kPromptTokens, config.vocab_size(), round);
      RETURN_IF_ERROR(RunTheirs(**theirs, prompt, what.prefill, threads,
                                their_bytes, read, their_rates));
      RETURN_IF_ERROR(
          RunOurs(*ours, prompt, what.prefill, our_bytes, read, our_rates));
      if (round == 0) continue;
      if (what.prefill) {
        prefill.push_back(our_rates.prefill.back() /
                          their_rates.prefill.back());
      }
      decode.push_back(our_rates.decode.back() / their_rates.decode.back());
      undisturbed.push_back(our_rates.undisturbed.back() /
                            their_rates.undisturbed.back());
    }
    std::printf(
        "%.2f billion weights, %d thread%s, %d rounds, load %s\n"
        "                    prefill   decode    MB a     of undisturbed\n"
        "                   tokens/s tokens/s   token  limit    tokens/s\n",
        static_cast<double>(file.num_weights) / 1e9, threads,
        threads == 1 ? "" : "s", what.rounds, LoadAverage().c_str());
    their_rates.Print(absl::StrCat("llama.cpp ", pair.theirs).c_str(),
                      their_bytes);
    our_rates.Print(absl::StrCat("strata ", pair.ours).c_str(), our_bytes);
    std::printf("  ours over theirs\n    decode       %s\n",
                Spread(decode).c_str());
    std::printf("    undisturbed  %s\n", Spread(undisturbed).c_str());
    if (what.prefill) {
      std::printf("    prefill      %s\n", Spread(prefill).c_str());
    }
    std::fflush(stdout);
    if (profile != nullptr) {
      PrintProfile("prefill", ours->PrefillProfile(),
                   static_cast<double>((what.rounds + 1) * kPromptTokens));
      PrintProfile("decoding", ours->Profile(),
                   static_cast<double>((what.rounds + 1) * (kNewTokens + 1)));
    }
  }
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  What what;
  bool good = argc >= 2;
  if (argc > 2) good &= absl::SimpleAtoi(argv[2], &what.rounds);
  for (int i = 3; i < argc; ++i) good &= what.Take(argv[i]);
  if (!good || what.rounds < 1) {
    std::fprintf(stderr,
                 "usage: %s FOLDER_OF_LIBLLAMA [ROUNDS [WHAT...]]\n"
                 "WHAT is INT4, INT8, BF16, threads=N or decode\n",
                 argv[0]);
    return 2;
  }
  for (const Pair& pair : kPairs) {
    if (!what.formats.empty() && what.formats.count(pair.ours) == 0) continue;
    const absl::Status status = Compare(argv[1], pair, what);
    if (status.ok()) continue;
    std::fprintf(stderr, "%s: %s\n", pair.theirs, status.ToString().c_str());
    return 1;
  }
  return 0;
}

}  // namespace
}  // namespace strata

int main(int argc, char** argv) { return strata::Main(argc, argv); }
