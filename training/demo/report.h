// What `strata demo` found: a hierarchical and a flat model, trained alike.
// docs/report.md explains the keys of its JSON form.

#ifndef TRAINING_DEMO_REPORT_H_
#define TRAINING_DEMO_REPORT_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "core/model/config.pb.h"
#include "nlohmann/json.hpp"
#include "training/demo/plan.h"
#include "training/metrics.h"

namespace strata {

// One model after training from one seed.
struct DemoRun {
  uint64_t seed = 0;
  double train_loss = 0;  // Of the last step, nats a token.
  ValidationMetrics validation;
  std::vector<ValidationMetrics> curve;  // Validations on the way.
  double tokens_per_second = 0;          // The median over the steps.
  std::string checkpoint;
  std::string weights_hash;
};

struct DemoModel {
  std::string name;  // "hierarchical" or "flat".
  ModelConfig config;
  int64_t parameters = 0;
  std::vector<DemoRun> runs;  // One a seed.
};

struct DemoSample {
  std::string domain;
  std::string prompt;  // From the domain's validation text.
  std::string continuation;
};

struct DemoReport {
  DemoModel hierarchical;
  DemoModel flat;
  int64_t planned_steps = 0;
  int64_t steps = 0;      // Done; fewer if it was stopped or time ran out.
  bool measured = false;  // The steps were chosen by `costs`.
  DemoCosts costs;
  bool stopped = false;             // By the user.
  std::vector<DemoSample> samples;  // Of the hierarchical model, first seed.
  std::string sampling;             // How they were drawn.
  double seconds = 0;               // All of it.
  nlohmann::json manifest;
};

struct Spread {
  double mean = 0;
  double deviation = 0;  // Standard, of the sample; 0 where there is one only.
};
Spread SpreadOf(const std::vector<double>& values);

// Over the model's runs.
Spread SpreadOf(const DemoModel& model,
                const std::function<double(const DemoRun&)>& value);

// Whether the hierarchical model is no worse: its mean bits per byte are at
// most the flat one's.
struct Verdict {
  bool no_worse = false;
  Spread hierarchical;
  Spread flat;
  Spread difference;  // Hierarchical - flat, seed by seed.
};
Verdict VerdictOf(const DemoReport& report);

// A figure of the comparison: a row of the table, a key of the JSON.
struct DemoFigure {
  enum class Unit { kBits, kShare, kCount, kIndex };
  std::string key;    // "gini", "bits_per_byte.prose"
  std::string title;  // "Gini of the load"
  Unit unit = Unit::kIndex;
  std::function<double(const DemoRun&)> value;
};
std::vector<DemoFigure> FiguresOf(const DemoReport& report);

nlohmann::json ToJson(const Spread& spread);
nlohmann::json ToJson(const DemoReport& report);

}  // namespace strata

#endif  // TRAINING_DEMO_REPORT_H_
