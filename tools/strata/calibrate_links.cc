#include "tools/strata/calibrate_links.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>
#include <set>
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
#include "sim/collective/link_calibration.h"
#include "sim/collective/validation.h"
#include "tools/strata/output.h"

namespace strata {
namespace {

using sim::ErrorSummary;
using sim::LinkCalibration;
using sim::LinkConstant;
using sim::MeasuredCollective;
using Rows = std::vector<MeasuredCollective>;

constexpr double kAim = 0.1;  // Of a prediction's error.

// What rows are told apart by in a table.
struct Grouping {
  const char* name;
  std::function<std::string(const MeasuredCollective&)> label_of;
};

std::vector<Grouping> Groupings() {
  return {
      {"collective", [](const MeasuredCollective& row) { return row.op; }},
      {"gpus",
       [](const MeasuredCollective& row) {
         return absl::StrCat(row.num_gpus, " GPUs");
       }},
      {"size",
       [](const MeasuredCollective& row) {
         return sim::SizeClass(row.bytes).substr(3);  // Without "1: ".
       }},
  };
}

struct Prediction {
  const char* key;
  const char* name;
  const std::vector<double>* us;
};

std::vector<Prediction> PredictionsOf(const LinkCalibration& calibration) {
  std::vector<Prediction> predictions = {
      {"preset", "preset", &calibration.preset_us},
      {"fitted", "fitted", &calibration.fitted_us},
      {"held_out_sizes", "other sizes", &calibration.other_sizes_us}};
  if (!calibration.other_gpus_us.empty()) {
    predictions.push_back(
        {"held_out_gpus", "other GPUs", &calibration.other_gpus_us});
  }
  return predictions;
}

int NumWithinAim(const Rows& rows, const std::vector<double>& predicted_us) {
  int count = 0;
  for (size_t i = 0; i < rows.size(); ++i) {
    if (std::abs(predicted_us[i] / rows[i].measured_us - 1) <= kAim) ++count;
  }
  return count;
}

// Summaries of each prediction: the same labels in the same order.
std::vector<std::vector<ErrorSummary>> Summaries(
    const Rows& rows, const std::vector<Prediction>& predictions,
    const Grouping& grouping) {
  std::vector<std::vector<ErrorSummary>> summaries;
  for (const Prediction& prediction : predictions) {
    summaries.push_back(
        sim::SummarizeErrors(rows, *prediction.us, grouping.label_of));
  }
  return summaries;
}

std::string ErrorTable(const Rows& rows, const LinkCalibration& calibration) {
  const std::vector<Prediction> predictions = PredictionsOf(calibration);
  std::vector<std::string> header = {"errors, %", "rows"};
  for (const Prediction& prediction : predictions) {
    header.push_back(prediction.name);
    header.push_back("90th");
  }
  std::vector<std::vector<std::string>> table = {header};
  for (const Grouping& grouping : Groupings()) {
    const auto summaries = Summaries(rows, predictions, grouping);
    // All rows, once.
    for (size_t i = table.size() == 1 ? 0 : 1; i < summaries[0].size(); ++i) {
      std::vector<std::string> line = {summaries[0][i].label,
                                       FormatInteger(summaries[0][i].count)};
      for (const auto& summary : summaries) {
        line.push_back(absl::StrFormat("%.1f", 100 * summary[i].median));
        line.push_back(absl::StrFormat("%.1f", 100 * summary[i].percentile_90));
      }
      table.push_back(std::move(line));
    }
  }
  std::vector<std::string> within = {"within 10 %", FormatInteger(rows.size())};
  for (const Prediction& prediction : predictions) {
    within.push_back(FormatInteger(NumWithinAim(rows, *prediction.us)));
    within.push_back("");
  }
  table.push_back(std::move(within));
  return FormatTable(table);
}

std::string ConstantTable(const LinkCalibration& calibration) {
  std::vector<std::vector<std::string>> table = {
      {"constant", "preset", "fitted", "rows"}};
  for (const LinkConstant& constant : calibration.constants) {
    if (!constant.is_fitted) continue;
    table.push_back({constant.name, absl::StrFormat("%.4g", constant.preset),
                     absl::StrFormat("%.4g", constant.value),
                     FormatInteger(constant.num_rows)});
  }
  return FormatTable(table);
}

// Those that are the preset's: no row depends on them, or none asks for more.
std::string KeptConstants(const LinkCalibration& calibration, bool with_rows) {
  std::vector<std::string> names;
  for (const LinkConstant& constant : calibration.constants) {
    if (!constant.is_fitted && (constant.num_rows > 0) == with_rows) {
      names.push_back(constant.name);
    }
  }
  return names.empty() ? "none" : absl::StrJoin(names, ", ");
}

std::string Comment(const LinkFlags& flags, const Rows& rows,
                    const LinkCalibration& calibration) {
  const auto errors = [&](const std::vector<double>& us) {
    const ErrorSummary all = sim::SummarizeErrors(
        rows, us, [](const MeasuredCollective& row) { return row.op; })[0];
    return absl::StrFormat("%.1f %%, %.1f %%", 100 * all.median,
                           100 * all.percentile_90);
  };
  std::set<int> gpus;
  for (const MeasuredCollective& row : rows) gpus.insert(row.num_gpus);
  std::string comment = absl::StrFormat(
      "Links as measured: strata calibrate --collectives, %d rows over %s "
      "GPUs.\nOrigin: %s\nErrors, median and 90th percentile: %s; of the "
      "preset %s;\nof sizes that the fit did not see %s",
      rows.size(), absl::StrJoin(gpus, ", "),
      flags.origin.empty() ? absl::StrJoin(flags.files, " ") : flags.origin,
      errors(calibration.fitted_us), errors(calibration.preset_us),
      errors(calibration.other_sizes_us));
  if (!calibration.other_gpus_us.empty()) {
    absl::StrAppend(&comment, "; of another number of GPUs ",
                    errors(calibration.other_gpus_us));
  }
  absl::StrAppend(&comment,
                  ".\nWhat is not said is the preset's: links between nodes "
                  "and switches that add\nup were not measured.");
  return comment;
}

nlohmann::ordered_json ToJson(const Rows& rows,
                              const LinkCalibration& calibration) {
  const std::vector<Prediction> predictions = PredictionsOf(calibration);
  nlohmann::ordered_json json;
  json["like"] = calibration.like;
  json["rows"] = rows.size();
  json["constants"] = nlohmann::ordered_json::array();
  for (const LinkConstant& constant : calibration.constants) {
    json["constants"].push_back({{"name", constant.name},
                                 {"preset", constant.preset},
                                 {"value", constant.value},
                                 {"fitted", constant.is_fitted},
                                 {"rows", constant.num_rows}});
  }
  for (const Prediction& prediction : predictions) {
    nlohmann::ordered_json& errors = json["errors"][prediction.key];
    errors["within_10_percent"] = NumWithinAim(rows, *prediction.us);
    for (const Grouping& grouping : Groupings()) {
      for (const ErrorSummary& summary :
           sim::SummarizeErrors(rows, *prediction.us, grouping.label_of)) {
        errors[summary.label] = {{"rows", summary.count},
                                 {"median", summary.median},
                                 {"p90", summary.percentile_90},
                                 {"largest", summary.largest}};
      }
    }
  }
  return json;
}

absl::StatusOr<Rows> ReadRows(const LinkFlags& flags) {
  Rows rows;
  std::set<int> seen;
  for (const std::string& file : flags.files) {
    ASSIGN_OR_RETURN(const std::string csv, ReadFile(file));
    absl::StatusOr<Rows> read = sim::ParseMeasurements(csv);
    if (!read.ok()) {
      return absl::Status(read.status().code(),
                          absl::StrCat(file, ": ", read.status().message()));
    }
    for (MeasuredCollective& row : *read) {
      seen.insert(row.num_gpus);
      if (flags.gpus.empty() || std::find(flags.gpus.begin(), flags.gpus.end(),
                                          row.num_gpus) != flags.gpus.end()) {
        rows.push_back(std::move(row));
      }
    }
  }
  for (const int wanted : flags.gpus) {
    if (seen.count(wanted) > 0) continue;
    return absl::InvalidArgumentError(
        absl::StrFormat("no rows of %d GPUs in %s; there are rows of %s",
                        wanted, absl::StrJoin(flags.files, ", "),
                        seen.empty() ? "none" : absl::StrJoin(seen, ", ")));
  }
  return rows;
}

}  // namespace

absl::StatusOr<int> RunCalibrateLinks(const LinkFlags& flags) {
  if (flags.out.empty()) {
    return absl::InvalidArgumentError(
        "nowhere to write the cluster to; give --out FILE.textproto");
  }
  ASSIGN_OR_RETURN(const Rows rows, ReadRows(flags));
  const std::string files = absl::StrJoin(flags.files, ", ");
  if (rows.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        files, ": no rows; want those that nccl_benchmark writes"));
  }
  const std::string like = flags.like.empty() ? rows[0].node_kind : flags.like;
  const absl::StatusOr<LinkCalibration> calibration =
      sim::CalibrateLinks(like, rows);
  if (!calibration.ok()) {
    return absl::Status(
        calibration.status().code(),
        absl::StrCat(files, ": ", calibration.status().message()));
  }
  const std::string name = std::filesystem::path(flags.out).stem();
  RETURN_IF_ERROR(WriteFileAtomically(
      flags.out, sim::LinkClusterText(*calibration, name,
                                      Comment(flags, rows, *calibration))));
  if (flags.json) {
    PrintJson(ToJson(rows, *calibration));
    return 0;
  }
  Print(absl::StrCat(
      ConstantTable(*calibration),
      "\nas in the preset, whose values do as well: ",
      KeptConstants(*calibration, /*with_rows=*/true),
      "\nas in the preset, which no row depends on: ",
      KeptConstants(*calibration, /*with_rows=*/false), "\n\n",
      ErrorTable(rows, *calibration),
      "\nrows: whose time depends on the constant; 0 where the preset's value "
      "would make a\nprotocol too good, and none takes it now\n"
      "|predicted / measured - 1|: median, 90th percentile. fitted: of the "
      "rows that the\nfile is fitted to. other sizes: each size by a fit that "
      "saw none of that size.",
      calibration->other_gpus_us.empty()
          ? ""
          : " other\nGPUs: each number of GPUs by a fit to the others.",
      "\n"));
  return 0;
}

}  // namespace strata
