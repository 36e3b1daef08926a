// strata serve in the background, for tests.

#ifndef TOOLS_STRATA_SERVING_SERVING_PROCESS_H_
#define TOOLS_STRATA_SERVING_SERVING_PROCESS_H_

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tools/strata/strata_fixture.h"

namespace strata {

// The program with those flags, on any free port, until it is told to end.
class Serving {
 public:
  explicit Serving(std::vector<std::string> args) {
    args.insert(args.begin(), {kBinary, "serve", "--port", "0"});
    std::vector<char*> argv;
    for (std::string& arg : args) argv.push_back(arg.data());
    argv.push_back(nullptr);
    err_ = absl::StrCat(testing::TempDir(), "/serve_stderr");
    std::filesystem::remove(err_);
    child_ = fork();
    if (child_ == 0) {
      dup2(open(err_.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644), 2);
      execv(kBinary, argv.data());
      _exit(127);
    }
    while (port_ == 0 && waitpid(child_, &status_, WNOHANG) == 0) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
      const std::string text = ReadAll(err_);
      const std::string before = "http://127.0.0.1:";
      const size_t at = text.find(before);
      if (at == std::string::npos || text.back() != '\n') continue;
      port_ = std::atoi(text.c_str() + at + before.size());
    }
    EXPECT_GT(port_, 0) << ReadAll(err_);
  }

  // Ends it as an orchestrator would; returns the exit status.
  int End() {
    kill(child_, SIGTERM);
    waitpid(child_, &status_, 0);
    return WIFEXITED(status_) ? WEXITSTATUS(status_) : -WTERMSIG(status_);
  }

  int port() const { return port_; }
  std::string err() const { return ReadAll(err_); }

 private:
  std::string err_;
  pid_t child_ = 0;
  int status_ = 0;
  int port_ = 0;
};

}  // namespace strata

#endif  // TOOLS_STRATA_SERVING_SERVING_PROCESS_H_
