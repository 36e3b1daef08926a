#include "tools/scorecard/cold_start.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "core/base/status_macros.h"
#include "core/model/moe.h"
#include "core/runtime/program.h"
#include "core/tensor/tensor.h"

namespace strata {
namespace {

constexpr double kWanted = 0.5;  // Of the mean load.
constexpr int64_t kInARow = 5;

// A tensor of a gate with a row, or an element, an expert: what scores it, and
// its load history.
bool IsOfGate(const std::string& name) {
  for (const char* part :
       {".gate.weight", ".gate.key.weight", ".gate.expert.weight", ".gate.bias",
        ".gate.load_ema", ".gate.load_integral",
        ".gate.e_score_correction_bias"}) {
    if (absl::EndsWith(name, part)) return true;
  }
  return false;
}

// Moments too: their names are those of the parameters, with a prefix.
void ForgetLastExperts(StateStore& state) {
  for (const std::string& name : state.names()) {
    if (!IsOfGate(name) || absl::StartsWith(name, "grad.")) continue;
    const absl::Span<float> values = state.Get(name).span<float>();
    const size_t row = values.size() / state.Get(name).dim(0);
    std::fill(values.end() - row, values.end(), 0.0f);
  }
}

// Rows of a gate's last expert in the latest step, over the mean's.
double LastExpertsLoad(const Program& program, const RouterValues& router) {
  const auto offset = program.Output(router.OffsetName()).span<int32_t>();
  const int64_t e = router.num_experts - 1;
  const double all = offset[router.num_experts];
  return all > 0 ? (offset[e + 1] - offset[e]) *
                       static_cast<double>(router.num_experts) / all
                 : 0;
}

}  // namespace

std::vector<int64_t> ColdStart::Steps() const {
  std::vector<int64_t> steps;
  for (const std::vector<double>& of_gate : load) {
    int64_t first = max_steps;
    int64_t in_a_row = 0;
    for (int64_t i = 0; i < static_cast<int64_t>(of_gate.size()); ++i) {
      in_a_row = of_gate[i] >= kWanted ? in_a_row + 1 : 0;
      if (in_a_row == kInARow) {
        first = i + 1 - kInARow;
        break;
      }
    }
    steps.push_back(first);
  }
  return steps;
}

double ColdStart::MeanSteps() const {
  const std::vector<int64_t> steps = Steps();
  double sum = 0;
  for (const int64_t s : steps) sum += static_cast<double>(s);
  return steps.empty() ? 0 : sum / static_cast<double>(steps.size());
}

absl::StatusOr<ColdStart> MeasureColdStart(Trainer& trainer, int64_t max_steps,
                                           const std::function<bool()>& stop) {
  ForgetLastExperts(trainer.state());
  ColdStart result;
  result.max_steps = max_steps;
  result.load.resize(trainer.routers().size());
  for (int64_t i = 0; i < max_steps; ++i) {
    if (stop()) return absl::CancelledError("stopped");
    RETURN_IF_ERROR(trainer.Step().status());
    for (size_t gate = 0; gate < result.load.size(); ++gate) {
      result.load[gate].push_back(
          LastExpertsLoad(trainer.gradient_program(), trainer.routers()[gate]));
    }
  }
  return result;
}

}  // namespace strata
