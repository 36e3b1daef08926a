#include "tools/strata/strata_fixture.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace strata {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

}  // namespace

std::string ReadAll(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

void WriteAll(const fs::path& path, const std::string& contents) {
  fs::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << contents;
}

int64_t NumSteps(const std::string& run) {
  const std::string text = ReadAll(fs::path(run) / "metrics.jsonl");
  int64_t steps = 0;
  for (size_t at = 0;
       (at = text.find("\"kind\":\"step\"", at)) != std::string::npos; ++at) {
    ++steps;
  }
  return steps;
}

Result Strata(std::vector<std::string> args, const RunSettings& settings) {
  args.insert(args.begin(), kBinary);
  std::vector<char*> argv;
  for (std::string& arg : args) argv.push_back(arg.data());
  argv.push_back(nullptr);
  const std::string out = absl::StrCat(::testing::TempDir(), "/stdout");
  const std::string err = absl::StrCat(::testing::TempDir(), "/stderr");

  const pid_t child = fork();
  if (child == 0) {
    constexpr int kFlags = O_WRONLY | O_CREAT | O_TRUNC;
    dup2(open("/dev/null", O_RDONLY), 0);
    dup2(open(out.c_str(), kFlags, 0644), 1);
    dup2(open(err.c_str(), kFlags, 0644), 2);
    if (settings.max_file_bytes > 0) {
      const auto bytes = static_cast<rlim_t>(settings.max_file_bytes);
      const rlimit limit = {bytes, bytes};
      signal(SIGXFSZ, SIG_IGN);  // So that writes fail with an error.
      setrlimit(RLIMIT_FSIZE, &limit);
    }
    execv(kBinary, argv.data());
    _exit(127);
  }
  int status = 0;
  if (settings.interrupt_after > 0) {
    while (NumSteps(settings.run) < settings.interrupt_after &&
           waitpid(child, &status, WNOHANG) == 0) {
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    kill(child, SIGINT);
  }
  waitpid(child, &status, 0);
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status),
          ReadAll(out), ReadAll(err)};
}

void ExpectFailure(const Result& result, int exit_code,
                   const std::vector<std::string>& words) {
  EXPECT_EQ(result.exit_code, exit_code) << result.err;
  EXPECT_THAT(result.out, IsEmpty());
  EXPECT_THAT(result.err, StartsWith("strata: "));
  EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1)
      << result.err;
  for (const std::string& word : words) {
    EXPECT_THAT(result.err, HasSubstr(word));
  }
}

std::vector<std::string> Tiny() {
  std::vector<std::string> args;
  for (const char* field :
       {"d_model=32", "num_layers=2", "max_seq_len=64", "attention.num_heads=2",
        "attention.num_kv_heads=1", "attention.head_dim=16",
        "moe.expert_width=16", "moe.hierarchical.tier_experts=4,4",
        "moe.hierarchical.k_max=2", "moe.hierarchical.fine_width=16",
        "moe.hierarchical.energy_groups=8", "train.seq_len=32",
        "train.batch_size=2", "train.warmup_steps=2",
        "train.validation_tokens=128", "train.validation_interval=4",
        "train.checkpoint_interval=3"}) {
    args.push_back("--set");
    args.push_back(field);
  }
  return args;
}

std::vector<std::string> operator+(std::vector<std::string> a,
                                   const std::vector<std::string>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

std::string* StrataTest::data_ = nullptr;
std::string* StrataTest::run_ = nullptr;

void StrataTest::SetUpTestSuite() {
  data_ = new std::string(absl::StrCat(::testing::TempDir(), "/data"));
  const std::map<std::string, std::vector<std::string>> words = {
      {"code", {"if", "(x)", "return", "int", "{", "}", "x;"}},
      {"legal", {"whereas", "the", "party", "hereby", "agrees"}},
      {"prose", {"the", "cat", "sat", "on", "a", "mat,", "caf\xC3\xA9"}},
      {"technical", {"press", "button", "A", "until", "it", "blinks."}}};
  uint32_t random = 1;
  for (const auto& [domain, vocabulary] : words) {
    for (const char* file : {"a.txt", "b.txt"}) {
      std::string text;
      while (text.size() < 6000) {
        random = random * 1664525 + 1013904223;
        absl::StrAppend(&text, vocabulary[(random >> 16) % vocabulary.size()],
                        (random >> 8) % 8 == 0 ? "\n" : " ");
      }
      WriteAll(fs::path(*data_) / domain / file, text);
    }
  }
  run_ = new std::string(Folder("trained"));
  const Result result = Strata(Train(*run_, 7));
  ASSERT_EQ(result.exit_code, 0) << result.err;
}

std::string StrataTest::Folder(const std::string& name) {
  const std::string path = absl::StrCat(::testing::TempDir(), "/", name);
  fs::remove_all(path);
  return path;
}

Result StrataTest::Quantize(const std::string& out,
                            const std::vector<std::string>& more) {
  return Strata(std::vector<std::string>{"quantize", "--model", *run_, "--data",
                                         *data_, "--out", out, "--group", "0",
                                         "--method", "clip", "--tokens",
                                         "256"} +
                more);
}

int64_t StrataTest::MixedBudget() {
  const auto bytes = [](const std::string& name,
                        const std::vector<std::string>& more) {
    const Result result =
        Quantize(Folder(name), more + std::vector<std::string>{"--json"});
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return nlohmann::json::parse(result.out)["bytes"].get<int64_t>();
  };
  const int64_t least = bytes("all_in_4_bits", {});
  const int64_t most = bytes("all_in_8_bits", {"--budget-bytes", "1000000000"});
  return (least + most) / 2;
}

std::vector<std::string> StrataTest::Train(const std::string& out, int steps) {
  return std::vector<std::string>{
             "train",   "--data",           *data_, "--out", out,
             "--steps", absl::StrCat(steps)} +
         Tiny();
}

}  // namespace strata
