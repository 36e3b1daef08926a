// A step as a Chrome trace: chrome://tracing and Perfetto open it.
//
// A process a pipeline stage; its items as slices, in microseconds, with
// micro-batch and chunk as arguments; the gradients and the optimizer after the
// pipeline.

#ifndef SIM_REPORT_CHROME_TRACE_H_
#define SIM_REPORT_CHROME_TRACE_H_

#include <string>

#include "sim/workload/training_step.h"

namespace strata::sim {

std::string ChromeTrace(const StepResult& result);

}  // namespace strata::sim

#endif  // SIM_REPORT_CHROME_TRACE_H_
