// strata demo

#include "training/demo/demo.h"

#include <chrono>
#include <csignal>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "absl/time/time.h"
#include "core/base/files.h"
#include "core/base/progress.h"
#include "core/base/signals.h"
#include "core/base/status_macros.h"
#include "core/model/config.h"
#include "serving/engine/generator.h"
#include "tools/strata/command.h"
#include "tools/strata/config_flags.h"
#include "tools/strata/option_parser.h"
#include "tools/strata/output.h"
#include "tools/strata/rate.h"
#include "training/demo/report.h"
#include "training/metrics.h"
#include "training/trainer.h"

namespace strata {
namespace {

struct DemoFlags {
  std::string preset = "demo";
  std::vector<std::string> set;
  std::string data;
  std::string out = "demo-out";
  int64_t steps = 0;
  int64_t flat_k = 0;
  int seeds = 1;
  double minutes = 4.5;
  int threads = 1;
  bool json = false;
  Option* steps_option = nullptr;
};

GenerateOptions SampleOptions() {
  GenerateOptions options;
  options.sampling.temperature = 0.7;
  options.sampling.top_p = 0.95;
  options.sampling.seed = 1;
  options.stop_token = kDocumentBoundary;
  return options;
}

std::string Describe(const SamplingOptions& sampling) {
  return absl::StrFormat("temperature %g, top-p %g, seed %d",
                         sampling.temperature, sampling.top_p, sampling.seed);
}

absl::StatusOr<std::string> ContinueByGenerator(Trainer& trainer,
                                                std::string_view prompt,
                                                int64_t max_new_tokens) {
  ASSIGN_OR_RETURN(const std::unique_ptr<Generator> generator,
                   Generator::Create(trainer.model_config(), trainer.backend(),
                                     trainer.state()));
  GenerateOptions options = SampleOptions();
  options.max_new_tokens = max_new_tokens;
  std::vector<int32_t> tokens;
  for (const char c : prompt) tokens.push_back(static_cast<unsigned char>(c));
  ASSIGN_OR_RETURN(tokens, generator->Generate(tokens, options));
  std::string text;
  for (const int32_t token : tokens) text += static_cast<char>(token);
  return text;
}

std::string FormatFigure(DemoFigure::Unit unit, double value) {
  switch (unit) {
    case DemoFigure::Unit::kBits:
      return absl::StrFormat("%.4f", value);
    case DemoFigure::Unit::kShare:
      return absl::StrFormat("%.1f %%", 100 * value);
    case DemoFigure::Unit::kCount:
      return FormatCount(value);
    case DemoFigure::Unit::kIndex:
      return absl::StrFormat("%.3f", value);
  }
  return "";
}

std::string FormatSpread(DemoFigure::Unit unit, const Spread& spread,
                         bool several) {
  const std::string mean = FormatFigure(unit, spread.mean);
  if (!several) return mean;
  return absl::StrCat(mean, " ± ", FormatFigure(unit, spread.deviation));
}

std::string ComparisonTable(const DemoReport& report) {
  const bool several = report.flat.runs.size() > 1;
  std::vector<std::vector<std::string>> rows = {
      {several ? absl::StrCat("mean ± standard deviation of ",
                              report.flat.runs.size(), " seeds")
               : "",
       "hierarchical", "flat", "ratio"}};
  for (const DemoFigure& figure : FiguresOf(report)) {
    const Spread a = SpreadOf(report.hierarchical, figure.value);
    const Spread b = SpreadOf(report.flat, figure.value);
    rows.push_back(
        {figure.title, FormatSpread(figure.unit, a, several),
         FormatSpread(figure.unit, b, several),
         b.mean == 0 ? "" : absl::StrFormat("%.3f", a.mean / b.mean)});
  }
  rows.push_back(
      {"parameters", FormatInteger(report.hierarchical.parameters),
       FormatInteger(report.flat.parameters),
       absl::StrFormat("%.3f",
                       static_cast<double>(report.hierarchical.parameters) /
                           static_cast<double>(report.flat.parameters))});
  return FormatTable(rows);
}

std::string VerdictLine(const DemoReport& report) {
  const Verdict verdict = VerdictOf(report);
  std::string line = absl::StrFormat(
      "Hierarchical no worse than flat: %s. %.4f against %.4f bits per byte, "
      "difference %+.4f",
      verdict.no_worse ? "yes" : "no", verdict.hierarchical.mean,
      verdict.flat.mean, verdict.difference.mean);
  if (report.flat.runs.size() > 1) {
    absl::StrAppendFormat(&line, " ± %.4f over %d seeds",
                          verdict.difference.deviation,
                          report.flat.runs.size());
  }
  return line + ".\n";
}

std::string SamplesText(const DemoReport& report) {
  std::string text = absl::StrCat(
      "Samples of the hierarchical model (", report.sampling,
      "): it was given what stands before >>> and wrote what follows.\n");
  for (const DemoSample& sample : report.samples) {
    const std::string body =
        Printable(absl::StrCat(sample.prompt, " >>>", sample.continuation));
    absl::StrAppend(&text, "\n", sample.domain, "\n  | ",
                    absl::StrReplaceAll(body, {{"\n", "\n  | "}}), "\n");
  }
  return text;
}

std::string PlanLine(const DemoReport& report, const DemoFlags& flags) {
  std::string line = absl::StrFormat(
      "%d steps of each model, in turns: hierarchical (%s parameters) and flat "
      "(%s)",
      report.planned_steps, FormatCount(report.hierarchical.parameters),
      FormatCount(report.flat.parameters));
  if (report.measured) {
    absl::StrAppendFormat(
        &line, "; chosen for %g minutes, as a step of both takes %.0f ms here",
        flags.minutes, 1000 * report.costs.step_seconds);
  }
  return line;
}

// One line for both models.
class DemoProgress {
 public:
  DemoProgress(const DemoFlags& flags) : flags_(flags) {}

  void OnPlan(const DemoReport& report) {
    PrintNote(PlanLine(report, flags_));
    steps_ = report.planned_steps;
    progress_.emplace("hierarchical/flat", 0, steps_ * flags_.seeds);
  }
  void OnStep(int seed, const StepMetrics& a, const StepMetrics& b) {
    rate_[0].Add(a.tokens, a.seconds);
    rate_[1].Add(b.tokens, b.seconds);
    progress_->Update(
        steps_ * seed + a.step,
        {absl::StrFormat("loss %.3f/%.3f", a.loss, b.loss),
         absl::StrCat(FormatCount(rate_[0].PerSecond()), "/",
                      FormatCount(rate_[1].PerSecond()), " tok/s")});
  }
  void OnValidation(int seed, const ValidationMetrics& a,
                    const ValidationMetrics& b) {
    progress_->Print(absl::StrCat(
        flags_.seeds > 1 ? absl::StrCat("seed ", seed + 1, ", ") : "",
        absl::StrFormat("step %d: validation, bits per byte: hierarchical "
                        "%.4f, flat %.4f",
                        a.step, a.bits_per_byte, b.bits_per_byte)));
  }
  void Finish() { progress_.reset(); }

 private:
  const DemoFlags& flags_;
  int64_t steps_ = 0;
  std::optional<Progress> progress_;
  RecentRate rate_[2];
};

void PrintStopped(const DemoReport& report) {
  std::string saved;
  for (const DemoModel* model : {&report.hierarchical, &report.flat}) {
    if (model->runs.empty()) continue;
    absl::StrAppend(&saved, saved.empty() ? "" : " and ",
                    model->runs.back().checkpoint);
  }
  PrintNote(absl::StrCat("stopped after step ", report.steps, " of ",
                         report.planned_steps, " and saved ", saved));
}

absl::Status PrintReport(const DemoFlags& flags, const DemoReport& report) {
  const std::string path = absl::StrCat(flags.out, "/report.json");
  const nlohmann::json json = ToJson(report);
  RETURN_IF_ERROR(WriteFileAtomically(
      path, json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) +
                "\n"));
  if (flags.json) {
    PrintJson(json);
    return absl::OkStatus();
  }
  std::string files;
  for (const DemoModel* model : {&report.hierarchical, &report.flat}) {
    for (const DemoRun& run : model->runs) {
      absl::StrAppendFormat(&files, "%-12s  %s\n", model->name, run.checkpoint);
    }
  }
  Print(absl::StrCat(
      "\n", ComparisonTable(report), "\n", VerdictLine(report), "\n",
      SamplesText(report), "\n", absl::StrFormat("%-12s  %s\n", "report", path),
      files,
      absl::StrFormat("%-12s  %s\n", "total time",
                      FormatClock(absl::Seconds(report.seconds)))));
  return absl::OkStatus();
}

absl::StatusOr<int> RunDemoCommand(const DemoFlags& flags) {
  DemoOptions options;
  options.start = std::chrono::steady_clock::now();
  ASSIGN_OR_RETURN(Configs configs, PresetConfigs(flags.preset));
  RETURN_IF_ERROR(SetFields(flags.set, configs));
  options.fixed_steps = flags.steps_option->is_given();
  if (options.fixed_steps) configs.train.set_steps(flags.steps);
  options.model = configs.model;
  options.train = configs.train;
  options.flat_k = flags.flat_k;
  options.num_seeds = flags.seeds;
  options.minutes = flags.minutes;
  options.continue_text = ContinueByGenerator;
  options.sampling = Describe(SampleOptions().sampling);
  options.out = flags.out;
  options.num_threads = flags.threads;
  ASSIGN_OR_RETURN(const Corpus corpus, LoadCorpus(flags.data));
  RETURN_IF_ERROR(MakeFolders(flags.out));

  // Whoever reads the progress may go; the training goes on.
  std::signal(SIGPIPE, SIG_IGN);
  InstallInterruptHandler();
  DemoProgress progress(flags);
  DemoObserver observer;
  observer.on_plan = [&](const DemoReport& report) {
    PrintNotes(corpus);
    progress.OnPlan(report);
  };
  observer.on_step = [&](int seed, const StepMetrics& a, const StepMetrics& b) {
    progress.OnStep(seed, a, b);
  };
  observer.on_validation = [&](int seed, const ValidationMetrics& a,
                               const ValidationMetrics& b) {
    progress.OnValidation(seed, a, b);
  };
  const absl::StatusOr<DemoReport> report =
      RunDemo(options, corpus, observer, InterruptRequested);
  progress.Finish();
  RETURN_IF_ERROR(report.status());
  if (report->stopped) {
    PrintStopped(*report);
    return kInterruptedExitCode;
  }
  if (report->steps < report->planned_steps) {
    PrintNote(absl::StrCat(
        "the machine became slower than it was measured: ", report->steps,
        " of ", report->planned_steps, " steps were taken, of either model"));
  }
  RETURN_IF_ERROR(PrintReport(flags, *report));
  return 0;
}

}  // namespace

Command AddDemo(OptionParser& app) {
  OptionParser* demo = app.AddSubcommand(
      "demo",
      "Train a hierarchical and a flat model on real text, compare them, and "
      "show what they learned");
  auto flags = std::make_shared<DemoFlags>();
  AddData(*demo, flags->data);
  demo->AddOption("--seeds", flags->seeds,
                  "Seeds to train from, for mean and spread; takes as many "
                  "times --minutes")
      ->TypeName("N")
      ->Check(Between(1, 1000));
  demo->AddOption("--minutes", flags->minutes,
                  "Time for a seed, all included, in minutes; the number of "
                  "steps is chosen by it")
      ->TypeName("M")
      ->Check(MoreThanZero());
  flags->steps_option =
      demo->AddOption("--steps", flags->steps,
                      "Steps of each model, however long they take (default: "
                      "as many as fit, at most the config's)")
          ->TypeName("N")
          ->Check(AtLeast(1))
          ->ShowDefault("");
  demo->AddOption("--flat-k", flags->flat_k,
                  "Experts a token of the flat model; 0: 30 % of them")
      ->TypeName("K")
      ->Check(AtLeast(0));
  demo->AddOption("--out", flags->out,
                  "Folder of report and checkpoints; those of an earlier demo "
                  "are replaced")
      ->TypeName("DIR");
  AddPreset(*demo, flags->preset);
  AddSet(*demo, flags->set);
  AddThreads(*demo, flags->threads);
  AddJson(*demo, flags->json);
  return {demo, [flags] { return RunDemoCommand(*flags); }};
}

}  // namespace strata
