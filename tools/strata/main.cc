// The command line: see tools/strata/command.h.

#include "tools/strata/command.h"

int main(int argc, char** argv) { return strata::RunCommandLine(argc, argv); }
