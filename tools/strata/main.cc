// The command line: see tools/strata/command.h.

#include "tools/strata/command.h"
#include "tools/strata/simulate.h"

int main(int argc, char** argv) {
  return strata::RunCommandLine(
      argc, argv,
      {strata::AddDemo, strata::AddScorecard, strata::AddAblate,
       strata::AddTrain, strata::AddLaunch, strata::AddGenerate,
       strata::AddEvaluate, strata::AddInfo, strata::AddInspect,
       strata::AddSimulate, strata::AddCalibrate, strata::AddTrace,
       strata::AddConvert, strata::AddQuantize, strata::AddVerify,
       strata::AddTokenize, strata::AddTrainTokenizer, strata::AddServe});
}
