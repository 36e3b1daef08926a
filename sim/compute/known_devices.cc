#include "sim/compute/known_devices.h"

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "core/base/check.h"
#include "core/base/files.h"
#include "core/base/status_macros.h"
#include "google/protobuf/io/tokenizer.h"
#include "google/protobuf/message.h"
#include "google/protobuf/text_format.h"
#include "sim/compute/calibration.pb.h"
#include "sim/compute/calibration_texts.h"

namespace strata {
namespace {

using google::protobuf::TextFormat;

// Of the embedded files, by base name; empty if there is none.
absl::string_view TextOf(absl::string_view name) {
  for (const auto& [known, text] : CalibrationTexts()) {
    if (known == name) return text;
  }
  return "";
}

template <typename Message>
Message Embedded(absl::string_view name) {
  Message message;
  CHECK(TextFormat::ParseFromString(std::string(TextOf(name)), &message))
      << name;
  return message;
}

const KnownDevices& Devices() {
  static const auto& devices =
      *new KnownDevices(Embedded<KnownDevices>("devices"));
  return devices;
}

class FirstError : public google::protobuf::io::ErrorCollector {
 public:
  void AddError(int line, int column, const std::string& message) override {
    if (text_.empty()) text_ = absl::StrCat("line ", line + 1, ": ", message);
  }
  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

}  // namespace

std::vector<std::string> DeviceNames() {
  std::vector<std::string> names;
  for (const KnownDevice& known : Devices().known()) {
    names.push_back(known.device());
  }
  return names;
}

absl::StatusOr<KnownDevice> FindDevice(absl::string_view name) {
  for (const KnownDevice& known : Devices().known()) {
    if (known.device() == name) return known;
  }
  return absl::NotFoundError(absl::StrCat("no device \"", name,
                                          "\"; there are ",
                                          absl::StrJoin(DeviceNames(), ", ")));
}

const SoftwareFacts& BuiltInSoftware() {
  static const auto& facts =
      *new SoftwareFacts(Embedded<SoftwareFacts>("software"));
  return facts;
}

absl::StatusOr<DeviceCalibration> MeasuredCalibration(absl::string_view name) {
  ASSIGN_OR_RETURN(const KnownDevice known, FindDevice(name));
  DeviceCalibration calibration = Embedded<DeviceCalibration>(name);
  calibration.set_device(known.device());
  *calibration.mutable_sheet() = known.sheet();
  return calibration;
}

std::string CalibrationText(const DeviceCalibration& calibration) {
  TextFormat::Printer printer;
  printer.SetSingleLineMode(true);
  const auto line = [&](const google::protobuf::Message& message) {
    std::string text;
    CHECK(printer.PrintToString(message, &text));
    return text;  // Ends in a space.
  };
  DeviceCalibration rest = calibration;
  rest.clear_fit();
  std::string text;
  CHECK(TextFormat::PrintToString(rest, &text));
  for (const KernelFit& fit : calibration.fit()) {
    KernelFit names = fit;
    names.clear_parameter();
    names.clear_residual();
    names.clear_range();
    names.clear_moe();
    absl::StrAppend(&text, "fit {\n  ", absl::StripSuffix(line(names), " "),
                    "\n");
    for (const Parameter& parameter : fit.parameter()) {
      absl::StrAppend(&text, "  parameter { ", line(parameter), "}\n");
    }
    for (const Residual& residual : fit.residual()) {
      absl::StrAppend(&text, "  residual { ", line(residual), "}\n");
    }
    for (const Range& range : fit.range()) {
      absl::StrAppend(&text, "  range { ", line(range), "}\n");
    }
    if (fit.has_moe()) {
      absl::StrAppend(&text, "  moe { ", line(fit.moe()), "}\n");
    }
    absl::StrAppend(&text, "}\n");
  }
  return text;
}

absl::StatusOr<DeviceCalibration> ReadCalibration(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  DeviceCalibration calibration;
  FirstError error;
  TextFormat::Parser parser;
  parser.RecordErrorsTo(&error);
  if (!parser.ParseFromString(text, &calibration)) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " is not a calibration: ", error.text()));
  }
  if (calibration.device().empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " is not a calibration: it names no device"));
  }
  return calibration;
}

}  // namespace strata
