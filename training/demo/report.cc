#include "training/demo/report.h"

#include <cmath>
#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/model/config.h"
#include "nlohmann/json.hpp"
#include "training/metrics.h"

namespace strata {
namespace {

using Json = nlohmann::json;

double BitsPerByte(const DemoRun& run) { return run.validation.bits_per_byte; }

Json ToJson(const DemoRun& run) {
  Json curve = Json::array();
  for (const ValidationMetrics& metrics : run.curve) {
    curve.push_back(strata::ToJson(metrics));
  }
  return {{"seed", run.seed},
          {"train_loss", run.train_loss},
          {"validation", strata::ToJson(run.validation)},
          {"curve", std::move(curve)},
          {"tokens_per_second", run.tokens_per_second},
          {"checkpoint", run.checkpoint},
          {"weights_hash", run.weights_hash}};
}

Json ToJson(const DemoModel& model, const std::vector<DemoFigure>& figures) {
  Json json = {{"name", model.name},
               {"parameters", model.parameters},
               {"config", Json::parse(strata::ToJson(model.config))},
               {"runs", Json::array()},
               {"summary", Json::object()}};
  for (const DemoRun& run : model.runs) json["runs"].push_back(ToJson(run));
  for (const DemoFigure& figure : figures) {
    json["summary"][figure.key] = ToJson(SpreadOf(model, figure.value));
  }
  return json;
}

}  // namespace

Spread SpreadOf(const std::vector<double>& values) {
  Spread spread;
  if (values.empty()) return spread;
  for (const double value : values) spread.mean += value / values.size();
  if (values.size() < 2) return spread;
  double squares = 0;
  for (const double value : values) {
    squares += (value - spread.mean) * (value - spread.mean);
  }
  spread.deviation = std::sqrt(squares / (values.size() - 1));
  return spread;
}

Spread SpreadOf(const DemoModel& model,
                const std::function<double(const DemoRun&)>& value) {
  std::vector<double> values;
  for (const DemoRun& run : model.runs) values.push_back(value(run));
  return SpreadOf(values);
}

Verdict VerdictOf(const DemoReport& report) {
  Verdict verdict;
  verdict.hierarchical = SpreadOf(report.hierarchical, BitsPerByte);
  verdict.flat = SpreadOf(report.flat, BitsPerByte);
  std::vector<double> differences;
  for (size_t i = 0; i < report.flat.runs.size(); ++i) {
    differences.push_back(BitsPerByte(report.hierarchical.runs[i]) -
                          BitsPerByte(report.flat.runs[i]));
  }
  verdict.difference = SpreadOf(differences);
  verdict.no_worse = verdict.hierarchical.mean <= verdict.flat.mean;
  return verdict;
}

std::vector<DemoFigure> FiguresOf(const DemoReport& report) {
  using Unit = DemoFigure::Unit;
  std::vector<DemoFigure> figures = {
      {"bits_per_byte", "validation, bits per byte", Unit::kBits, BitsPerByte}};
  if (!report.flat.runs.empty()) {
    const ValidationMetrics& any = report.flat.runs[0].validation;
    for (size_t i = 0; i < any.domains.size(); ++i) {
      const std::string& name = any.domains[i].name;
      figures.push_back({absl::StrCat("bits_per_byte.", name),
                         absl::StrCat("  ", name), Unit::kBits,
                         [i](const DemoRun& run) {
                           return run.validation.domains[i].bits_per_byte;
                         }});
    }
  }
  figures.push_back(
      {"accuracy", "next-byte accuracy", Unit::kShare,
       [](const DemoRun& run) { return run.validation.accuracy; }});
  const auto use = [&](const char* key, const char* title, Unit unit,
                       double ExpertUse::*field) {
    figures.push_back({key, title, unit, [field](const DemoRun& run) {
                         return run.validation.experts.*field;
                       }});
  };
  use("active_share", "share of experts active", Unit::kShare,
      &ExpertUse::active_share);
  use("flops_per_token", "expert FLOPs per token", Unit::kCount,
      &ExpertUse::flops_per_token);
  use("gini", "Gini of the load", Unit::kIndex, &ExpertUse::gini);
  use("utilisation", "expert utilisation", Unit::kIndex,
      &ExpertUse::utilisation);
  use("starved_share", "share of experts starved", Unit::kShare,
      &ExpertUse::starved_share);
  figures.push_back({"tokens_per_second", "training, tokens/s", Unit::kCount,
                     [](const DemoRun& run) { return run.tokens_per_second; }});
  return figures;
}

Json ToJson(const Spread& spread) {
  return {{"mean", spread.mean}, {"deviation", spread.deviation}};
}

Json ToJson(const DemoReport& report) {
  const std::vector<DemoFigure> figures = FiguresOf(report);
  const Verdict verdict = VerdictOf(report);
  Json json = {
      {"steps",
       {{"planned", report.planned_steps},
        {"done", report.steps},
        {"measured", report.measured}}},
      {"models",
       {ToJson(report.hierarchical, figures), ToJson(report.flat, figures)}},
      {"verdict",
       {{"hierarchical_no_worse", verdict.no_worse},
        {"hierarchical", ToJson(verdict.hierarchical)},
        {"flat", ToJson(verdict.flat)},
        {"difference", ToJson(verdict.difference)}}},
      {"samples", Json::array()},
      {"sampling", report.sampling},
      {"seconds", report.seconds},
      {"manifest", report.manifest}};
  if (report.measured) {
    json["steps"]["step_seconds"] = report.costs.step_seconds;
    json["steps"]["validation_seconds"] = report.costs.validation_seconds;
    json["steps"]["closing_seconds"] = report.costs.closing_seconds;
  }
  for (const DemoSample& sample : report.samples) {
    json["samples"].push_back({{"domain", sample.domain},
                               {"prompt", sample.prompt},
                               {"continuation", sample.continuation}});
  }
  return json;
}

}  // namespace strata
