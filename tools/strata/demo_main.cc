// `strata demo` alone: two fifths of the program to compile, so that a newcomer
// sees it sooner. ./strata builds it for the first demo.

#include "tools/strata/command.h"

int main(int argc, char** argv) {
  return strata::RunCommandLine(argc, argv, {strata::AddDemo});
}
