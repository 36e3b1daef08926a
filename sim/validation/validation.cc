#include "sim/validation/validation.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "core/base/status_macros.h"
#include "sim/validation/published_rows.h"
#include "sim/workload/layout.h"
#include "sim/workload/simulator.h"
#include "sim/workload/training_step.h"

namespace strata::sim {
namespace {

constexpr double kGiB = static_cast<double>(int64_t{1} << 30);
constexpr absl::string_view kHeader =
    "source,framework,verified,name,model,cluster,layout,schedule,measured,"
    "unit,accounting,note";
constexpr const char* kUnits[] = {"s", "tok/s/gpu", "TF/gpu", "mfu%",
                                  "gpu_h/Ttok"};
constexpr const char* kAccountings[] = {"-", "causal", "full", "megatron2021"};

// The cells of a line; quotes keep commas, and two of them are one.
std::vector<std::string> Cells(absl::string_view line) {
  std::vector<std::string> cells(1);
  bool quoted = false;
  for (size_t i = 0; i < line.size(); ++i) {
    const char c = line[i];
    if (c == '"') {
      if (quoted && i + 1 < line.size() && line[i + 1] == '"') {
        cells.back() += '"';
        ++i;
      } else {
        quoted = !quoted;
      }
    } else if (c == ',' && !quoted) {
      cells.emplace_back();
    } else {
      cells.back() += c;
    }
  }
  return cells;
}

template <size_t kCount>
bool IsOneOf(const std::string& word, const char* const (&words)[kCount]) {
  return std::find(std::begin(words), std::end(words), word) != std::end(words);
}

absl::StatusOr<MeasuredRow> ParseRow(const std::vector<std::string>& cells) {
  const auto wrong = [](absl::string_view what, absl::string_view value,
                        absl::string_view wanted) {
    return absl::InvalidArgumentError(
        absl::StrCat(what, " is \"", value.substr(0, 60), "\"; want ", wanted));
  };
  const size_t columns =
      std::vector<absl::string_view>(absl::StrSplit(kHeader, ',')).size();
  if (cells.size() != columns) {
    return absl::InvalidArgumentError(
        absl::StrCat(cells.size(), " cells; want the header's ", columns));
  }
  MeasuredRow row;
  row.source = cells[0];
  row.framework = cells[1];
  if (cells[2] != "0" && cells[2] != "1") {
    return wrong("verified", cells[2], "0 or 1");
  }
  row.verified = cells[2] == "1";
  row.name = cells[3];
  row.model = cells[4];
  row.cluster = cells[5];
  row.layout = cells[6];
  row.schedule = cells[7];
  if (!absl::SimpleAtod(cells[8], &row.measured) || !(row.measured > 0) ||
      !std::isfinite(row.measured)) {
    return wrong("measured", cells[8], "a number above 0");
  }
  row.unit = cells[9];
  if (!IsOneOf(row.unit, kUnits)) {
    return wrong("unit", row.unit, absl::StrJoin(kUnits, ", "));
  }
  row.accounting = cells[10];
  if (!IsOneOf(row.accounting, kAccountings)) {
    return wrong("accounting", row.accounting,
                 absl::StrJoin(kAccountings, ", "));
  }
  const bool in_flops = row.unit == "TF/gpu" || row.unit == "mfu%";
  if (in_flops == (row.accounting == "-")) {
    return wrong("accounting", row.accounting,
                 in_flops ? "causal, full or megatron2021 with TF/gpu and mfu%"
                          : "- with this unit");
  }
  row.note = cells[11];
  return row;
}

double Median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half]
                                : (values[half - 1] + values[half]) / 2;
}

// One row, ready to be simulated at any efficiency.
struct Case {
  StepInputs inputs;
  double tokens = 0;
  double flops = 0;  // Of a step, as the row's accounting has it.
};

// The SC'21 paper counts attention by all pairs, and the layers' forward pass
// twice, for recomputation.
double Megatron2021Flops(const Case& c, const StepResult& step) {
  const ModelConfig& config = c.inputs.model->config();
  const double output = 6.0 * c.tokens * static_cast<double>(config.d_model()) *
                        static_cast<double>(config.vocab_size());
  return (step.flops_full - output) * 4 / 3 + output;
}

double StepFlops(const MeasuredRow& row, const Case& c,
                 const StepResult& step) {
  if (row.accounting == "causal") return step.flops_causal;
  if (row.accounting == "full") return step.flops_full;
  return Megatron2021Flops(c, step);
}

// Seconds of a step from a value in the row's unit; and, as each is a rate or a
// time, back again.
double Convert(const MeasuredRow& row, const Case& c, const StepResult& step,
               double value) {
  const double gpus = c.inputs.machine.num_gpus;
  if (row.unit == "tok/s/gpu") return c.tokens / gpus / value;
  if (row.unit == "TF/gpu") {
    return StepFlops(row, c, step) / gpus / (value * 1e12);
  }
  if (row.unit == "mfu%") {
    return StepFlops(row, c, step) / gpus /
           (value / 100 * c.inputs.machine.bf16_flops);
  }
  return value;  // Seconds.
}

double ToSeconds(const MeasuredRow& row, const Case& c, const StepResult& step,
                 double value) {
  if (row.unit == "gpu_h/Ttok") {
    return value * 3600 / 1e12 * c.tokens / c.inputs.machine.num_gpus;
  }
  return Convert(row, c, step, value);
}

double FromSeconds(const MeasuredRow& row, const Case& c,
                   const StepResult& step, double seconds) {
  if (row.unit == "gpu_h/Ttok") {
    return seconds * c.inputs.machine.num_gpus / c.tokens * 1e12 / 3600;
  }
  return Convert(row, c, step, seconds);
}

class Validation {
 public:
  Validation(const std::vector<MeasuredRow>& rows, const Constants& constants,
             Simulator& simulator)
      : machine_(constants.machine), simulator_(simulator) {
    result_.calibration = constants.calibration;
    result_.efficiency = constants.efficiency;
    for (const MeasuredRow& row : rows) {
      RowResult result;
      result.row = row;
      result_.rows.push_back(std::move(result));
    }
  }

  absl::StatusOr<ValidationResult> Run() {
    cases_.resize(result_.rows.size());
    for (size_t i = 0; i < cases_.size(); ++i) {
      result_.rows[i].status = Prepare(i);
    }
    for (size_t i = 0; i < cases_.size(); ++i) {
      if (!result_.rows[i].status.ok()) continue;
      RowResult& r = result_.rows[i];
      ASSIGN_OR_RETURN(const StepResult step, StepOf(i, EfficiencyOf(r.row)));
      r.predicted_seconds = step.seconds;
      r.predicted = FromSeconds(r.row, cases_[i], step, step.seconds);
      r.error = step.seconds / r.measured_seconds - 1;
      r.fits = step.memory.fits();
      r.memory = step.memory;
    }
    RETURN_IF_ERROR(Fit());
    RETURN_IF_ERROR(LeaveOut());
    Summarise();
    return std::move(result_);
  }

 private:
  double EfficiencyOf(const MeasuredRow& row) const {
    const auto it = result_.efficiency.find(row.framework);
    // A framework that nobody has fitted: the median of those that are.
    return it != result_.efficiency.end() ? it->second
                                          : MedianEfficiency(row.framework);
  }

  double MedianEfficiency(const std::string& without) const {
    std::vector<double> others;
    for (const auto& [framework, efficiency] : result_.efficiency) {
      if (framework != without) others.push_back(efficiency);
    }
    return others.empty() ? 1 : Median(std::move(others));
  }

  absl::Status Prepare(size_t i) {
    const MeasuredRow& row = result_.rows[i].row;
    Case& c = cases_[i];
    Scenario scenario;
    scenario.model = row.model;
    scenario.cluster = row.cluster;
    scenario.layout = row.layout;
    scenario.schedule = row.schedule;
    ASSIGN_OR_RETURN(c.inputs, simulator_.Inputs(scenario));
    c.tokens = static_cast<double>(c.inputs.layout.global_batch) *
               static_cast<double>(c.inputs.layout.sequence);
    ASSIGN_OR_RETURN(const StepResult step, StepOf(i, EfficiencyOf(row)));
    result_.rows[i].measured_seconds = ToSeconds(row, c, step, row.measured);
    return absl::OkStatus();
  }

  absl::StatusOr<StepResult> StepOf(size_t i, double efficiency) {
    StepInputs inputs = cases_[i].inputs;
    inputs.software = machine_;
    inputs.software.efficiency = efficiency;
    return SimulateStep(inputs);
  }

  // The efficiency at which the median of log(predicted / measured) over
  // `members` is 0; time falls as it grows, so it is searched by halving.
  absl::StatusOr<double> FitTo(const std::vector<size_t>& members) {
    double low = 0.2;
    double high = 2;
    for (int round = 0; round < 12; ++round) {
      const double middle = std::sqrt(low * high);
      std::vector<double> logs;
      for (const size_t i : members) {
        ASSIGN_OR_RETURN(const StepResult step, StepOf(i, middle));
        logs.push_back(
            std::log(step.seconds / result_.rows[i].measured_seconds));
      }
      (Median(std::move(logs)) > 0 ? low : high) = middle;
    }
    return std::sqrt(low * high);
  }

  bool Counts(size_t i) const {
    return result_.rows[i].status.ok() && result_.rows[i].row.verified;
  }

  absl::Status Fit() {
    std::map<std::string, std::vector<size_t>> members;
    for (size_t i = 0; i < cases_.size(); ++i) {
      if (Counts(i)) members[result_.rows[i].row.framework].push_back(i);
    }
    for (const auto& [framework, rows] : members) {
      ASSIGN_OR_RETURN(result_.fitted[framework], FitTo(rows));
    }
    return absl::OkStatus();
  }

  absl::Status LeaveOut() {
    std::map<std::pair<std::string, std::string>, double> known;
    for (size_t i = 0; i < cases_.size(); ++i) {
      RowResult& r = result_.rows[i];
      if (!Counts(i)) continue;
      const auto key = std::make_pair(r.row.source, r.row.framework);
      if (known.count(key) == 0) {
        std::vector<size_t> others;
        for (size_t j = 0; j < cases_.size(); ++j) {
          if (Counts(j) && result_.rows[j].row.source != r.row.source &&
              result_.rows[j].row.framework == r.row.framework) {
            others.push_back(j);
          }
        }
        double efficiency = MedianEfficiency(r.row.framework);
        if (!others.empty()) {
          ASSIGN_OR_RETURN(efficiency, FitTo(others));
        }
        known[key] = efficiency;
      }
      ASSIGN_OR_RETURN(const StepResult step, StepOf(i, known[key]));
      r.error_left_out = step.seconds / r.measured_seconds - 1;
    }
    return absl::OkStatus();
  }

  void Summarise() {
    std::vector<double> all;
    std::vector<double> all_left_out;
    std::map<std::string, std::vector<double>> kinds;
    std::vector<std::string> order;
    std::map<std::string, std::vector<double>> errors;
    std::map<std::string, std::vector<double>> left_out;
    for (size_t i = 0; i < cases_.size(); ++i) {
      const RowResult& r = result_.rows[i];
      if (!Counts(i)) continue;
      if (errors[r.row.source].empty()) order.push_back(r.row.source);
      errors[r.row.source].push_back(std::abs(r.error));
      left_out[r.row.source].push_back(std::abs(r.error_left_out));
      all.push_back(std::abs(r.error));
      all_left_out.push_back(std::abs(r.error_left_out));
      kinds[cases_[i].inputs.machine.kind].push_back(all_left_out.back());
      result_.max_error = std::max(result_.max_error, std::abs(r.error));
      if (std::abs(r.error) <= 0.15) ++result_.num_within_15;
    }
    for (const std::string& source : order) {
      result_.sources.push_back(
          {source, static_cast<int>(errors[source].size()),
           Median(errors[source]), Median(left_out[source])});
    }
    result_.num_rows = static_cast<int>(all.size());
    result_.median_error = Median(std::move(all));
    result_.median_error_left_out = Median(std::move(all_left_out));
    for (const auto& [kind, left] : kinds) {
      result_.kinds.push_back(
          {kind, static_cast<int>(left.size()), Median(left)});
    }
  }

  const Software machine_;
  Simulator& simulator_;
  std::vector<Case> cases_;
  ValidationResult result_;
};

}  // namespace

absl::StatusOr<std::vector<MeasuredRow>> ParseRows(absl::string_view csv) {
  std::vector<MeasuredRow> rows;
  int line_number = 0;
  bool header_seen = false;
  for (absl::string_view line : absl::StrSplit(csv, '\n')) {
    ++line_number;
    line = absl::StripTrailingAsciiWhitespace(line);
    if (line.empty() || line[0] == '#') continue;
    if (!header_seen) {
      if (line != kHeader) {
        return absl::InvalidArgumentError(
            absl::StrCat("line ", line_number, ": want the header ", kHeader));
      }
      header_seen = true;
      continue;
    }
    absl::StatusOr<MeasuredRow> row = ParseRow(Cells(line));
    if (!row.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat("line ", line_number, ": ", row.status().message()));
    }
    rows.push_back(*std::move(row));
  }
  if (!header_seen) {
    return absl::InvalidArgumentError(
        absl::StrCat("no rows; want the header ", kHeader));
  }
  return rows;
}

absl::StatusOr<std::vector<MeasuredRow>> PublishedRows() {
  return ParseRows(PublishedRowTexts()[0].second);
}

absl::StatusOr<ValidationResult> ValidateRows(
    const std::vector<MeasuredRow>& rows, const Constants& constants,
    Simulator& simulator) {
  return Validation(rows, constants, simulator).Run();
}

std::string FormatValidation(const ValidationResult& result) {
  std::string text;
  std::string source;
  for (const bool verified : {true, false}) {
    bool any = false;
    source.clear();
    for (const RowResult& r : result.rows) {
      if (r.row.verified != verified) continue;
      if (!any) {
        absl::StrAppendFormat(
            &text, "%s%-38s %10s %10s %-10s %8s %9s\n",
            verified ? ""
                     : "\nLayout not verified (not in the figures below)\n",
            "row", "measured", "predicted", "unit", "error", "left out");
        any = true;
      }
      if (r.row.source != source) {
        source = r.row.source;
        absl::StrAppend(&text, source, "\n");
      }
      if (!r.status.ok()) {
        absl::StrAppendFormat(&text, "  %-36s no prediction: %s\n", r.row.name,
                              r.status.message());
        continue;
      }
      absl::StrAppendFormat(
          &text, "  %-36s %10.5g %10.5g %-10s %+7.1f%% %s%s\n", r.row.name,
          r.row.measured, r.predicted, r.row.unit, 100 * r.error,
          verified ? absl::StrFormat("%+8.1f%%", 100 * r.error_left_out) : "",
          absl::StrFormat("  %3.0f GiB%s", r.memory.total() / kGiB,
                          r.fits ? "" : ", would be out of memory"));
    }
  }
  absl::StrAppend(&text,
                  "\nErrors are of the step's time: + is predicted too "
                  "long.\n\nmedian |error| by source");
  absl::StrAppendFormat(&text, "%18s %9s\n", "all", "left out");
  for (const SourceResult& s : result.sources) {
    absl::StrAppendFormat(&text, "  %-30s %2d rows %6.1f%% %8.1f%%\n", s.source,
                          s.num_rows, 100 * s.median_error,
                          100 * s.median_error_left_out);
  }
  for (const KindResult& k : result.kinds) {
    absl::StrAppendFormat(&text, "  on %-27s %2d rows         %8.1f%%\n",
                          k.kind, k.num_rows, 100 * k.median_error_left_out);
  }
  absl::StrAppend(&text,
                  "\nsoftware efficiency   in use   fitted to these rows\n");
  for (const auto& [framework, fitted] : result.fitted) {
    const auto it = result.efficiency.find(framework);
    absl::StrAppendFormat(&text, "  %-18s %7s %9.3f\n", framework,
                          it == result.efficiency.end()
                              ? "-"
                              : absl::StrFormat("%.3f", it->second),
                          fitted);
  }
  absl::StrAppend(&text,
                  "\nconstants of the machine, beside data sheets, kernels and "
                  "collectives\n");
  for (const MachineConstants& machine : result.calibration.machine()) {
    absl::StrAppend(&text, absl::StrJoin(machine.kind(), ", "), "\n");
    for (const Constant& c : machine.constant()) {
      absl::StrAppendFormat(&text, "  %-24s %-8.4g %s (%s)\n", c.name(),
                            c.value(), c.meaning(), c.origin());
    }
  }
  absl::StrAppendFormat(
      &text,
      "\nmedian |error| %.1f %% over %d verified rows (goal 7 %%: %s), %.1f %% "
      "with each source left out; %d of them within 15 %% (goal all: %s); the "
      "largest %.1f %%\n",
      100 * result.median_error, result.num_rows,
      result.median_error <= 0.07 ? "reached" : "not reached",
      100 * result.median_error_left_out, result.num_within_15,
      result.num_within_15 == result.num_rows ? "reached" : "not reached",
      100 * result.max_error);
  return text;
}

}  // namespace strata::sim
