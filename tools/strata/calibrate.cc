// strata calibrate

#include "sim/compute/calibrate.h"

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "core/base/files.h"
#include "core/base/status_macros.h"
#include "nlohmann/json.hpp"
#include "sim/chakra/workload.h"
#include "sim/compute/calibration.pb.h"
#include "sim/compute/fitted_kernel.h"
#include "sim/compute/known_devices.h"
#include "sim/compute/measurement.h"
#include "sim/replay/machine_times.h"
#include "tools/strata/calibrate_links.h"
#include "tools/strata/command.h"
#include "tools/strata/config_flags.h"
#include "tools/strata/option_parser.h"
#include "tools/strata/output.h"
#include "tools/strata/simulate_chakra.h"

namespace strata {
namespace {

constexpr double kNoSeconds = 1e-15;  // Of a FLOP or a byte: not in the fit.

struct CalibrateFlags {
  std::vector<std::string> files;
  std::vector<std::string> traces;
  LinkFlags links;
  std::string device;
  std::string out;
  bool check = false;
  std::string calibration;
  std::string origin;
  FitOptions options;
  bool json = false;
};

std::string Percent(double share) {
  return absl::StrFormat("%.2f %%", 100 * share);
}

std::string NameOf(const KernelErrors& errors) {
  std::vector<std::string> parts;
  for (const std::string& part : {errors.family, errors.kernel_source,
                                  errors.precision, errors.variant}) {
    if (!part.empty()) parts.push_back(Printable(part));
  }
  return parts.empty() ? "all rows" : absl::StrJoin(parts, " ");
}

std::string FitTable(const std::vector<KernelErrors>& errors) {
  std::vector<std::vector<std::string>> rows = {
      {"kernel", "fitted", "median", "p90", "held out", "median", "p90"}};
  for (const KernelErrors& e : errors) {
    rows.push_back({NameOf(e), FormatInteger(e.seen.rows),
                    Percent(e.seen.median), Percent(e.seen.p90),
                    FormatInteger(e.held_out.rows), Percent(e.held_out.median),
                    Percent(e.held_out.p90)});
  }
  return FormatTable(rows);
}

std::string CheckTable(const std::vector<KernelErrors>& errors) {
  std::vector<std::vector<std::string>> rows = {
      {"kernel", "rows", "median", "p90"}};
  for (const KernelErrors& e : errors) {
    rows.push_back({NameOf(e), FormatInteger(e.held_out.rows),
                    Percent(e.held_out.median), Percent(e.held_out.p90)});
  }
  return FormatTable(rows);
}

nlohmann::ordered_json ToJson(const std::vector<KernelErrors>& errors,
                              bool fitted) {
  const auto of = [](const RowErrors& rows) {
    return nlohmann::ordered_json{
        {"rows", rows.rows}, {"median", rows.median}, {"p90", rows.p90}};
  };
  auto json = nlohmann::ordered_json::array();
  for (const KernelErrors& e : errors) {
    nlohmann::ordered_json row = {{"family", e.family},
                                  {"kernel_source", e.kernel_source},
                                  {"precision", e.precision},
                                  {"variant", e.variant}};
    if (fitted) row["fitted"] = of(e.seen);
    row[fitted ? "held_out" : "checked"] = of(e.held_out);
    json.push_back(std::move(row));
  }
  return json;
}

absl::StatusOr<std::vector<Measurement>> ReadAll(
    const std::vector<std::string>& files, const MeasuredOn& on) {
  std::vector<Measurement> rows;
  for (const std::string& file : files) {
    ASSIGN_OR_RETURN(Measurements read, ReadMeasurements(file, on));
    if (read.num_empty > 0) {
      PrintNote(absl::StrCat(file, ": left out ", FormatInteger(read.num_empty),
                             " rows without work"));
    }
    for (Measurement& row : read.rows) rows.push_back(std::move(row));
  }
  if (rows.empty()) return absl::InvalidArgumentError("no rows to work on");
  return rows;
}

absl::StatusOr<int> RunCheck(const CalibrateFlags& flags,
                             const std::vector<Measurement>& rows) {
  DeviceCalibration calibration;
  if (flags.calibration.empty()) {
    ASSIGN_OR_RETURN(calibration, MeasuredCalibration(flags.device));
  } else {
    ASSIGN_OR_RETURN(calibration, ReadCalibration(flags.calibration));
    if (calibration.device() != flags.device) {
      return absl::InvalidArgumentError(
          absl::StrCat(flags.calibration, " is a calibration of ",
                       calibration.device(), "; want one of ", flags.device));
    }
    // A file without a sheet is of the known device.
    if (!calibration.has_sheet()) {
      ASSIGN_OR_RETURN(const KnownDevice known, FindDevice(flags.device));
      *calibration.mutable_sheet() = known.sheet();
    }
  }
  ASSIGN_OR_RETURN(const std::vector<KernelErrors> errors,
                   CheckCalibration(calibration, rows));
  if (flags.json) {
    PrintJson(ToJson(errors, /*fitted=*/false));
  } else {
    Print(absl::StrCat(CheckTable(errors),
                       "\n|predicted / measured - 1|: median, 90th "
                       "percentile\n"));
  }
  return 0;
}

absl::StatusOr<int> RunFit(const CalibrateFlags& flags,
                           const KnownDevice& device,
                           const std::vector<Measurement>& rows) {
  ASSIGN_OR_RETURN(
      Calibrated result,
      Calibrate(device, BuiltInSoftware(), rows, flags.options,
                [](const KernelErrors& e) {
                  PrintNote(absl::StrCat("fitted ", NameOf(e), ", median ",
                                         Percent(e.held_out.median)));
                }));
  result.calibration.set_origin(
      flags.origin.empty() ? absl::StrJoin(flags.files, " ") : flags.origin);
  RETURN_IF_ERROR(
      WriteFileAtomically(flags.out, CalibrationText(result.calibration)));
  if (flags.json) {
    PrintJson(ToJson(result.errors, /*fitted=*/true));
  } else {
    Print(absl::StrCat(FitTable(result.errors),
                       "\n|predicted / measured - 1|: median, 90th percentile; "
                       "held out: a fifth of the rows\nthat no fit saw\n"));
  }
  return 0;
}

// Of this machine, or whichever recorded the traces.
absl::StatusOr<int> RunMachine(const CalibrateFlags& flags) {
  if (!flags.files.empty() || !flags.device.empty() || flags.check) {
    return absl::InvalidArgumentError(
        "--traces are of the machine that recorded them; want no files, "
        "--device or --check beside");
  }
  if (flags.out.empty()) {
    return absl::InvalidArgumentError(
        "nowhere to write the calibration to; give --out FILE");
  }
  std::vector<chakra::Workload> workloads;
  for (const std::string& traces : flags.traces) {
    ASSIGN_OR_RETURN(workloads.emplace_back(), LoadTraces(traces));
  }
  ASSIGN_OR_RETURN(const sim::MachineTimes times,
                   sim::FitMachineTimes(workloads));
  RETURN_IF_ERROR(WriteFileAtomically(flags.out, sim::ToJson(times)));
  if (flags.json) {
    PrintJson(nlohmann::json::parse(sim::ToJson(times)));
    return 0;
  }
  std::vector<std::vector<std::string>> rows = {
      {"operator", "us a run", "GFLOP/s", "GB/s"}};
  const auto rate = [](double seconds) {
    return seconds > kNoSeconds ? absl::StrFormat("%.2f", 1e-9 / seconds) : "";
  };
  for (const auto& [name, time] : times.operators) {
    rows.push_back({Printable(name),
                    absl::StrFormat("%.1f", 1e6 * time.seconds),
                    rate(time.seconds_per_flop), rate(time.seconds_per_byte)});
  }
  Print(absl::StrCat(
      FormatTable(rows),
      absl::StrFormat("\na step of a collective %.1f us, its bytes %s GB/s\n",
                      1e6 * times.step_seconds, rate(times.seconds_per_byte))));
  return 0;
}

absl::StatusOr<int> RunLinks(const CalibrateFlags& flags) {
  if (!flags.files.empty() || !flags.traces.empty() || !flags.device.empty() ||
      flags.check) {
    return absl::InvalidArgumentError(
        "--collectives are of links; want no files, --traces, --device or "
        "--check beside");
  }
  LinkFlags links = flags.links;
  links.out = flags.out;
  links.origin = flags.origin;
  links.json = flags.json;
  return RunCalibrateLinks(links);
}

absl::StatusOr<int> RunCalibrate(const CalibrateFlags& flags) {
  if (!flags.links.files.empty()) return RunLinks(flags);
  if (!flags.links.like.empty() || !flags.links.gpus.empty()) {
    return absl::InvalidArgumentError(
        "--like and --gpus are of links; want --collectives FILE beside");
  }
  if (!flags.traces.empty()) return RunMachine(flags);
  if (flags.files.empty() || flags.device.empty()) {
    return absl::InvalidArgumentError(
        "nothing to fit to; want files and their --device, or --traces, or "
        "--collectives");
  }
  if (!flags.check && flags.out.empty()) {
    return absl::InvalidArgumentError(
        "nowhere to write the calibration to; give --out FILE, or --check");
  }
  MeasuredOn on;
  ASSIGN_OR_RETURN(const KnownDevice device, FindDevice(flags.device));
  on.name = flags.device;
  on.facts = BuiltInSoftware();
  ASSIGN_OR_RETURN(on.device, DeviceOf(device.sheet()));
  ASSIGN_OR_RETURN(const std::vector<Measurement> rows,
                   ReadAll(flags.files, on));
  return flags.check ? RunCheck(flags, rows) : RunFit(flags, device, rows);
}

}  // namespace

Command AddCalibrate(OptionParser& app) {
  OptionParser* calibrate = app.AddSubcommand(
      "calibrate",
      "Fit the simulator's kernel times, or links, to measured ones, or hold "
      "them to it");
  auto flags = std::make_shared<CalibrateFlags>();
  calibrate
      ->AddOption("files", flags->files,
                  "CSV of kernel times, may be gzipped; docs/compute_model.md "
                  "has the columns")
      ->TypeName("FILE");
  calibrate
      ->AddOption("--device", flags->device, "Where the times were measured")
      ->TypeName("NAME");
  calibrate
      ->AddOption(
          "--traces", flags->traces,
          "Instead: what strata train --trace recorded here, for strata "
          "simulate --chakra DIR --machine; repeat it for several runs")
      ->TypeName("DIR")
      ->OneValueAtATime();
  calibrate
      ->AddOption("--collectives", flags->links.files,
                  "Instead: the CSV of nccl_benchmark, for strata simulate "
                  "--cluster; repeat it for several runs")
      ->TypeName("FILE")
      ->OneValueAtATime();
  calibrate
      ->AddOption("--like", flags->links.like,
                  "The node whose preset holds where collectives say nothing; "
                  "otherwise that of the GPU in the file")
      ->TypeName("NODE");
  calibrate
      ->AddOption("--gpus", flags->links.gpus,
                  "Only collectives over so many GPUs, such as 2,4")
      ->TypeName("N,...")
      ->Delimiter(',');
  calibrate->AddOption("--out", flags->out, "Write the calibration to")
      ->TypeName("FILE");
  calibrate->AddFlag("--check", flags->check,
                     "Fit nothing: print the errors of a calibration");
  calibrate
      ->AddOption("--calibration", flags->calibration,
                  "Check this one; otherwise the built-in one of the device")
      ->TypeName("FILE");
  calibrate
      ->AddOption("--origin", flags->origin,
                  "What the calibration says of the data; otherwise the files")
      ->TypeName("TEXT");
  calibrate
      ->AddOption("--rows", flags->options.max_rows,
                  "Rows of a kernel to fit to, at most")
      ->TypeName("N")
      ->Check(AtLeast(10));
  calibrate
      ->AddOption("--evaluations", flags->options.max_evaluations,
                  "Sets of parameters to try for a kernel")
      ->TypeName("N")
      ->Check(AtLeast(100));
  AddJson(*calibrate, flags->json);
  return {calibrate, [flags] { return RunCalibrate(*flags); }};
}

}  // namespace strata
