// A simulated step for people and programs: a summary, JSON, and what differs
// between two.

#ifndef SIM_REPORT_STEP_REPORT_H_
#define SIM_REPORT_STEP_REPORT_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "sim/workload/simulator.h"
#include "sim/workload/training_step.h"

namespace strata::sim {

// What was asked, beside what came out.
struct StepReport {
  Scenario scenario;
  StepInputs inputs;
  StepResult result;
};

// Some twenty lines: time, throughput, utilisation, where the time goes,
// memory, the critical path, warnings.
std::string Summary(const StepReport& report);

// All numbers of the summary, in seconds, bytes and shares.
nlohmann::ordered_json ToJson(const StepReport& report);

// Whether it is a result that Compare reads: of ToJson here or in
// replay_report.h. Returns INVALID_ARGUMENT, naming the field, if not.
absl::Status CheckResult(const nlohmann::json& json);

// What differs between two results and where the time went:
//
//   time      19.9 s -> 18.1 s   -9.0 %
//   layout    pp16,... -> pp8,...
//   why       pipeline idle  -1.2 s, ...
//
// Returns INVALID_ARGUMENT, naming the field, if one is not such a result.
absl::StatusOr<std::string> Compare(const nlohmann::json& a,
                                    const nlohmann::json& b);

}  // namespace strata::sim

#endif  // SIM_REPORT_STEP_REPORT_H_
