#include "core/base/signals.h"

#include <signal.h>

#include <cstdlib>

#include "gtest/gtest.h"

namespace strata {
namespace {

using ::testing::KilledBySignal;

TEST(SignalsTest, TheFirstSignalAsks) {
  for (const int signal : {SIGINT, SIGTERM}) {
    InstallInterruptHandler();
    EXPECT_FALSE(InterruptRequested());

    raise(signal);

    EXPECT_TRUE(InterruptRequested());
  }
}

TEST(SignalsTest, WhatMpirunPassesOnAsksHoweverOften) {
  InstallInterruptHandler();
  raise(SIGUSR1);
  EXPECT_TRUE(InterruptRequested());
  raise(SIGUSR1);
  EXPECT_TRUE(InterruptRequested());
}

TEST(SignalsDeathTest, TheSecondSignalKills) {
  for (const int signal : {SIGINT, SIGTERM}) {
    EXPECT_EXIT(
        {
          InstallInterruptHandler();
          raise(signal);
          if (!InterruptRequested()) std::exit(1);
          raise(signal);
          std::exit(0);
        },
        KilledBySignal(signal), "");
  }
}

}  // namespace
}  // namespace strata
