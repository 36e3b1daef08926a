#include "sim/workload/expert_loads.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "core/base/files.h"
#include "core/base/random.h"
#include "core/base/status_macros.h"
#include "core/parallel/load_stats.h"
#include "core/trace/routing_reader.h"

namespace strata::sim {
namespace {

void Normalise(std::vector<double>& share) {
  const double sum = std::accumulate(share.begin(), share.end(), 0.0);
  for (double& s : share) s = sum > 0 ? s / sum : 1.0 / share.size();
}

void Shuffle(std::vector<double>& share, uint64_t seed, uint64_t stream) {
  Random random(seed, stream);
  for (size_t i = share.size(); i > 1; --i) {
    std::swap(share[i - 1], share[random.UniformInt(i)]);
  }
}

// `load` as sorted shares of `num_experts` experts: each takes the average of
// its part of the sorted curve, so that the total and the skew stay.
std::vector<double> Stretch(std::vector<double> load, int64_t num_experts) {
  std::sort(load.begin(), load.end(), std::greater<double>());
  std::vector<double> share(num_experts);
  const double step = static_cast<double>(load.size()) / num_experts;
  for (int64_t e = 0; e < num_experts; ++e) {
    const double begin = e * step;
    const double end = begin + step;
    for (double at = begin; at < end - 1e-9;) {
      const size_t i =
          std::min<size_t>(load.size() - 1, static_cast<size_t>(at + 1e-9));
      const double next = std::min<double>(end, i + 1.0);
      share[e] += load[i] * (next - at);
      at = next;
    }
  }
  Normalise(share);
  return share;
}

std::vector<double> PowerLaw(int64_t num_experts, double exponent) {
  std::vector<double> share;
  for (int64_t e = 0; e < num_experts; ++e) {
    share.push_back(std::pow(1.0 + e, -exponent));
  }
  Normalise(share);
  return share;
}

// The one of that Gini coefficient, which grows with the exponent.
std::vector<double> PowerLawOfGini(int64_t num_experts, double gini) {
  double low = 0, high = 64;
  for (int i = 0; i < 60; ++i) {
    const double middle = (low + high) / 2;
    const bool is_even =
        ComputeLoadStats(PowerLaw(num_experts, middle)).gini < gini;
    (is_even ? low : high) = middle;
  }
  return PowerLaw(num_experts, high);
}

}  // namespace

ExpertLoads PowerLawLoads(const std::vector<Gate>& gates, double exponent,
                          uint64_t seed) {
  ExpertLoads loads;
  if (exponent == 0) return loads;
  loads.origin = absl::StrCat("power law ", exponent);
  for (size_t g = 0; g < gates.size(); ++g) {
    loads.share.push_back(PowerLaw(gates[g].num_experts, exponent));
    Shuffle(loads.share.back(), seed, g);
  }
  return loads;
}

absl::StatusOr<ExpertLoads> LoadsOfGini(const std::vector<Gate>& gates,
                                        double gini, uint64_t seed) {
  ExpertLoads loads;
  loads.origin = absl::StrCat("Gini coefficient ", gini);
  for (size_t g = 0; g < gates.size(); ++g) {
    const double most = 1 - 1. / static_cast<double>(gates[g].num_experts);
    if (!(gini >= 0 && gini < most)) {
      return absl::InvalidArgumentError(
          absl::StrCat("a Gini coefficient of ", gini, " for the ",
                       gates[g].num_experts, " experts of layer ",
                       gates[g].layer, "; want 0 or more, below ", most));
    }
    loads.share.push_back(PowerLawOfGini(gates[g].num_experts, gini));
    Shuffle(loads.share.back(), seed, g);
  }
  return loads;
}

absl::StatusOr<std::vector<LoadWindow>> ReadWindows(const std::string& path,
                                                    int64_t num_windows) {
  ASSIGN_OR_RETURN(RoutingReader reader, RoutingReader::Open(path));
  const RoutingLayout layout = reader.layout();
  std::vector<LoadWindow> records;
  // Pairs of windows are merged when there are twice as many as wanted, so
  // that memory does not grow with the trace.
  const size_t most = 2 * std::max<int64_t>(1, num_windows);
  int64_t per_window = 1;
  int64_t in_last = 0;
  RoutingRecord record;
  while (true) {
    ASSIGN_OR_RETURN(const bool more, reader.Next(record));
    if (!more) break;
    if (records.empty() || in_last == per_window) {
      if (records.size() == most) {
        for (size_t i = 0; i < most / 2; ++i) {
          LoadWindow merged = std::move(records[2 * i]);
          const LoadWindow& second = records[2 * i + 1];
          merged.last_step = second.last_step;
          for (size_t g = 0; g < merged.load.size(); ++g) {
            merged.tokens[g] += second.tokens[g];
            for (size_t e = 0; e < merged.load[g].size(); ++e) {
              merged.load[g][e] += second.load[g][e];
            }
          }
          records[i] = std::move(merged);
        }
        records.resize(most / 2);
        per_window *= 2;
      }
      records.emplace_back();
      records.back().first_step = record.step();
      records.back().tokens.resize(layout.gates.size());
      for (const GateLayout& gate : layout.gates) {
        records.back().load.emplace_back(gate.num_experts);
      }
      in_last = 0;
    }
    LoadWindow& window = records.back();
    window.last_step = record.step();
    ++in_last;
    for (size_t g = 0; g < layout.gates.size(); ++g) {
      const GateLayout& gate = layout.gates[g];
      for (int64_t rank = 0; rank < layout.num_ranks; ++rank) {
        window.tokens[g] += record.tokens(g * layout.num_ranks + rank);
        for (int64_t e = 0; e < gate.num_experts; ++e) {
          window.load[g][e] +=
              record.rows(gate.first_row + rank * gate.num_experts + e);
        }
      }
    }
  }
  if (records.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " has no record; want at least one"));
  }
  return records;
}

ExpertLoads LoadsOfWindow(const LoadWindow& window,
                          const std::vector<Gate>& gates,
                          absl::string_view origin, uint64_t seed) {
  ExpertLoads loads;
  loads.origin = std::string(origin);
  bool same = window.load.size() == gates.size();
  for (size_t g = 0; same && g < gates.size(); ++g) {
    same = static_cast<int64_t>(window.load[g].size()) == gates[g].num_experts;
  }
  for (size_t g = 0; g < gates.size(); ++g) {
    const size_t source = g % window.load.size();
    std::vector<double> share = window.load[source];
    if (same) {
      Normalise(share);
      const double rows =
          std::accumulate(window.load[g].begin(), window.load[g].end(), 0.0);
      loads.rows_per_token.push_back(window.tokens[g] > 0
                                         ? rows / window.tokens[g]
                                         : gates[g].rows_per_token);
    } else {
      share = Stretch(std::move(share), gates[g].num_experts);
      Shuffle(share, seed, g);
    }
    loads.share.push_back(std::move(share));
  }
  return loads;
}

absl::StatusOr<ExpertLoads> ReadLoadsCsv(const std::string& path,
                                         const std::vector<Gate>& gates) {
  ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  ExpertLoads loads;
  loads.origin = path;
  for (const Gate& gate : gates) {
    loads.share.emplace_back(gate.num_experts);
  }
  const auto wrong = [&](int64_t line, absl::string_view what) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ", line ", line, ": ", what));
  };
  int64_t line_number = 0;
  bool has_rows = false;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    ++line_number;
    line = absl::StripAsciiWhitespace(line);
    if (line_number == 1) {
      if (line != "layer,expert,tokens") {
        return wrong(1, "want the header layer,expert,tokens");
      }
      continue;
    }
    if (line.empty()) continue;
    const std::vector<absl::string_view> cells = absl::StrSplit(line, ',');
    int64_t layer = 0;
    int64_t expert = 0;
    double tokens = 0;
    if (cells.size() != 3 || !absl::SimpleAtoi(cells[0], &layer) ||
        !absl::SimpleAtoi(cells[1], &expert) ||
        !absl::SimpleAtod(cells[2], &tokens) || !(tokens >= 0) ||
        !std::isfinite(tokens)) {
      return wrong(line_number, "want two whole numbers and tokens, 0 or more");
    }
    bool found = false;
    for (size_t g = 0; g < gates.size(); ++g) {
      if (gates[g].layer != layer || gates[g].tier != 0) continue;
      if (expert < 0 || expert >= gates[g].num_experts) {
        return wrong(line_number,
                     absl::StrCat("expert ", expert, " of layer ", layer,
                                  "; want 0 to ", gates[g].num_experts - 1));
      }
      loads.share[g][expert] += tokens;
      found = true;
    }
    if (!found) {
      std::string text =
          absl::StrCat("layer ", layer, " of the model has no experts");
      if (!gates.empty()) {
        absl::StrAppend(&text, "; those from ", gates.front().layer, " to ",
                        gates.back().layer, " have");
      }
      return wrong(line_number, text);
    }
    has_rows = true;
  }
  if (!has_rows) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " has no loads; want lines such as ",
                     gates.empty() ? 0 : gates.front().layer, ",0,1000"));
  }
  for (std::vector<double>& share : loads.share) Normalise(share);
  return loads;
}

std::vector<std::vector<double>> RowsOfRanks(const ExpertLoads& loads,
                                             const Gate& gate, int gate_index,
                                             int64_t num_ranks, double rows) {
  const int64_t num_experts = gate.num_experts;
  const bool even = loads.share.empty();
  const auto share = [&](int64_t expert) {
    return even ? 1.0 / num_experts : loads.share[gate_index][expert];
  };
  std::vector<double> slot_rows;
  if (loads.placement.empty()) {
    for (int64_t e = 0; e < num_experts; ++e) {
      slot_rows.push_back(rows * share(e));
    }
  } else {
    const std::vector<int32_t>& expert = loads.placement[gate_index].expert;
    std::vector<int> replicas(num_experts);
    for (const int32_t e : expert) ++replicas[e];
    for (const int32_t e : expert) {
      slot_rows.push_back(rows * share(e) / replicas[e]);
    }
  }
  const size_t per_rank = slot_rows.size() / num_ranks;
  std::vector<std::vector<double>> ranks;
  for (int64_t r = 0; r < num_ranks; ++r) {
    ranks.emplace_back(slot_rows.begin() + r * per_rank,
                       slot_rows.begin() + (r + 1) * per_rank);
  }
  return ranks;
}

}  // namespace strata::sim
