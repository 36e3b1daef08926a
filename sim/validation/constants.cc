#include "sim/validation/constants.h"

#include <cmath>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "core/base/status_macros.h"
#include "google/protobuf/io/tokenizer.h"
#include "google/protobuf/text_format.h"
#include "sim/validation/constants.pb.h"
#include "sim/validation/constants_texts.h"

namespace strata::sim {
namespace {

struct MachineConstant {
  absl::string_view name;
  double TrainingConstants::*field;
};
constexpr MachineConstant kMachineConstants[] = {
    {"product_share", &TrainingConstants::product_share},
    {"collective_sms", &TrainingConstants::collective_sms},
    {"tensor_overlap_share", &TrainingConstants::tensor_overlap_share},
    {"host_seconds_per_node", &TrainingConstants::host_seconds_per_node},
    {"host_seconds_per_piece", &TrainingConstants::host_seconds_per_piece},
    {"row_count_seconds", &TrainingConstants::row_count_seconds},
    {"host_seconds_per_step", &TrainingConstants::host_seconds_per_step},
    {"optimizer_memory_share", &TrainingConstants::optimizer_memory_share},
    {"row_exchange_gb_per_s", &TrainingConstants::row_exchange_gb_per_s},
    {"row_exchange_seconds", &TrainingConstants::row_exchange_seconds},
    {"row_exchange_bytes", &TrainingConstants::row_exchange_bytes},
    {"splits_backward", &TrainingConstants::splits_backward},
    {"program_seconds", &TrainingConstants::program_seconds},
    {"hop_element_bytes", &TrainingConstants::hop_element_bytes},
    {"hop_seconds", &TrainingConstants::hop_seconds},
};

class FirstError : public google::protobuf::io::ErrorCollector {
 public:
  void AddError(int line, int column, const std::string& message) override {
    if (text_.empty()) text_ = absl::StrCat("line ", line + 1, ": ", message);
  }
  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

absl::Status Wrong(absl::string_view what, absl::string_view wanted) {
  return absl::InvalidArgumentError(
      absl::StrCat("constants: ", what, "; want ", wanted));
}

double TrainingConstants::*FieldOf(absl::string_view name) {
  for (const MachineConstant& constant : kMachineConstants) {
    if (constant.name == name) return constant.field;
  }
  return nullptr;
}

absl::StatusOr<TrainingConstants> Read(const MachineConstants& machine) {
  const std::string kinds = absl::StrJoin(machine.kind(), " ");
  if (machine.constant_size() > kMaxMachineConstants) {
    return Wrong(absl::StrCat(machine.constant_size(), " for ", kinds),
                 absl::StrCat("at most ", kMaxMachineConstants));
  }
  TrainingConstants constants;
  std::set<std::string> seen;
  for (const Constant& c : machine.constant()) {
    double TrainingConstants::*field = FieldOf(c.name());
    if (field == nullptr) {
      std::vector<absl::string_view> names;
      for (const MachineConstant& known : kMachineConstants) {
        names.push_back(known.name);
      }
      return Wrong(absl::StrCat("\"", c.name().substr(0, 60), "\" of ", kinds),
                   absl::StrJoin(names, ", "));
    }
    if (!seen.insert(c.name()).second) {
      return Wrong(absl::StrCat(c.name(), " of ", kinds, " is given twice"),
                   "it once");
    }
    if (!(c.value() >= 0) || !std::isfinite(c.value())) {
      return Wrong(absl::StrCat(c.name(), " of ", kinds, " is ", c.value()),
                   "a number from 0");
    }
    if (field == &TrainingConstants::product_share && c.value() == 0) {
      return Wrong(absl::StrCat("product_share of ", kinds, " is 0"),
                   "a share above 0");
    }
    if (c.meaning().empty() || c.origin().empty()) {
      return Wrong(
          absl::StrCat(c.name(), " of ", kinds, " lacks its meaning or origin"),
          "both");
    }
    constants.*field = c.value();
  }
  return constants;
}

}  // namespace

absl::StatusOr<Constants> ParseConstants(absl::string_view text) {
  Constants constants;
  FirstError error;
  google::protobuf::TextFormat::Parser parser;
  parser.RecordErrorsTo(&error);
  if (!parser.ParseFromString(std::string(text), &constants.calibration)) {
    return Wrong(error.text(),
                 "a text proto of sim/validation/constants.proto");
  }
  const double pooled = constants.calibration.left_out_error();
  if (!(pooled > 0) || !std::isfinite(pooled)) {
    return Wrong(absl::StrCat("left_out_error is ", pooled), "one above 0");
  }
  constants.machine.unmeasured.step_error = pooled;
  for (const MachineConstants& machine : constants.calibration.machine()) {
    ASSIGN_OR_RETURN(TrainingConstants read, Read(machine));
    for (const std::string& kind : machine.kind()) {
      read.step_error = pooled;
      for (const KindResidual& residual : machine.residual()) {
        if (residual.kind() != kind || residual.rows() < kFewRows) continue;
        if (!(residual.left_out_error() > 0)) {
          return Wrong(absl::StrCat("residual of ", kind, " is ",
                                    residual.left_out_error()),
                       "one above 0");
        }
        read.step_error = residual.left_out_error();
      }
      if (!constants.machine.constants.emplace(kind, read).second) {
        return Wrong(absl::StrCat("kind ", kind, " is given twice"), "it once");
      }
    }
  }
  for (const Framework& framework : constants.calibration.framework()) {
    const double efficiency = framework.efficiency();
    if (!(efficiency > 0) || !std::isfinite(efficiency)) {
      return Wrong(
          absl::StrCat("efficiency of ", framework.name(), " is ", efficiency),
          "a share above 0");
    }
    if (!constants.efficiency.emplace(framework.name(), efficiency).second) {
      return Wrong(
          absl::StrCat("framework ", framework.name(), " is given twice"),
          "it once");
    }
  }
  return constants;
}

absl::StatusOr<Constants> DefaultConstants() {
  return ParseConstants(StepConstantTexts()[0].second);
}

absl::StatusOr<Software> SoftwareOf(const Constants& constants,
                                    absl::string_view framework) {
  Software software = constants.machine;
  if (!framework.empty()) software.framework = std::string(framework);
  const auto it = constants.efficiency.find(software.framework);
  if (it == constants.efficiency.end()) {
    std::vector<std::string> names;
    for (const auto& [name, efficiency] : constants.efficiency) {
      names.push_back(name);
    }
    return absl::NotFoundError(absl::StrCat("no framework \"", framework,
                                            "\"; there are ",
                                            absl::StrJoin(names, ", ")));
  }
  software.efficiency = it->second;
  return software;
}

}  // namespace strata::sim
