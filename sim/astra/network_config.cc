#include "sim/astra/network_config.h"

#include <cmath>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "core/base/status_macros.h"

namespace strata::astra {
namespace {

constexpr size_t kMaxDimensions = 8;
constexpr size_t kShownBytes = 40;

struct List {
  int line = 0;
  std::vector<std::string> items;
};

using Lists = std::map<std::string, List>;

absl::Status Error(absl::string_view name, int line,
                   absl::string_view problem) {
  return absl::InvalidArgumentError(
      absl::StrCat(name, ", line ", line, ": ", problem));
}

std::string Unquoted(absl::string_view text) {
  text = absl::StripAsciiWhitespace(text);
  if (text.size() >= 2 && (text.front() == '"' || text.front() == '\'') &&
      text.back() == text.front()) {
    text = text.substr(1, text.size() - 2);
  }
  return std::string(text);
}

// "[ a, b ]" to its items.
void AppendItems(absl::string_view text, List& list) {
  text = text.substr(1, text.size() - 2);
  for (const absl::string_view item : absl::StrSplit(text, ',')) {
    const std::string value = Unquoted(item);
    if (!value.empty()) list.items.push_back(value);
  }
}

absl::StatusOr<Lists> ParseLists(absl::string_view text,
                                 absl::string_view name) {
  Lists lists;
  List* open = nullptr;  // The key whose lines with dashes follow.
  std::string flow;      // What stands of a list in brackets so far.
  List* flow_list = nullptr;
  int line_number = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    ++line_number;
    line = absl::StripAsciiWhitespace(line.substr(0, line.find('#')));
    if (line.empty() || line == "---" || line == "...") continue;
    if (flow_list == nullptr && line.front() == '-') {
      if (open == nullptr) {
        return Error(name, line_number, "a list item without a key");
      }
      open->items.push_back(Unquoted(line.substr(1)));
      continue;
    }
    if (flow_list == nullptr) {
      const size_t colon = line.find(':');
      if (colon == absl::string_view::npos) {
        return Error(name, line_number,
                     absl::StrCat("want \"key: [ value, ... ]\", not \"",
                                  line.substr(0, kShownBytes), "\""));
      }
      const std::string key = Unquoted(line.substr(0, colon));
      const auto [entry, is_new] = lists.try_emplace(key);
      if (!is_new) {
        return Error(name, line_number,
                     absl::StrCat(key, " stands there twice"));
      }
      entry->second.line = line_number;
      line = absl::StripAsciiWhitespace(line.substr(colon + 1));
      open = &entry->second;
      if (line.empty()) continue;
      if (line.front() != '[') {
        return Error(name, line_number,
                     absl::StrCat(key, " is \"", line.substr(0, kShownBytes),
                                  "\"; want a list in brackets, an item for "
                                  "each dimension"));
      }
      flow_list = open;
      open = nullptr;
    }
    absl::StrAppend(&flow, line, " ");
    if (line.back() == ']') {
      AppendItems(absl::StripAsciiWhitespace(flow), *flow_list);
      flow.clear();
      flow_list = nullptr;
    }
  }
  if (flow_list != nullptr) {
    return Error(name, flow_list->line, "the list has no closing bracket");
  }
  return lists;
}

absl::StatusOr<List> Find(const Lists& lists, const std::string& key,
                          absl::string_view name) {
  const auto found = lists.find(key);
  if (found == lists.end()) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, " lacks ", key,
                     "; want topology, npus_count, bandwidth and latency"));
  }
  return found->second;
}

absl::StatusOr<Topology> ParseTopology(const std::string& text) {
  if (text == "Ring") return Topology::kRing;
  if (text == "FullyConnected") return Topology::kFullyConnected;
  if (text == "Switch") return Topology::kSwitch;
  return absl::InvalidArgumentError(
      absl::StrCat("topology is \"", text.substr(0, kShownBytes),
                   "\"; want Ring, FullyConnected or Switch"));
}

}  // namespace

int NetworkConfig::num_ranks() const {
  int product = 1;
  for (const NetworkDimension& dimension : dimensions) {
    product *= dimension.num_ranks;
  }
  return product;
}

absl::StatusOr<NetworkConfig> ParseNetworkConfig(absl::string_view text,
                                                 absl::string_view name) {
  ASSIGN_OR_RETURN(const Lists lists, ParseLists(text, name));
  ASSIGN_OR_RETURN(const List topology, Find(lists, "topology", name));
  const size_t num_dimensions = topology.items.size();
  if (num_dimensions < 1 || num_dimensions > kMaxDimensions) {
    return Error(name, topology.line,
                 absl::StrCat("topology has ", num_dimensions,
                              " dimensions; want 1 to ", kMaxDimensions));
  }
  NetworkConfig config;
  for (const std::string& item : topology.items) {
    const absl::StatusOr<Topology> parsed = ParseTopology(item);
    if (!parsed.ok()) {
      return Error(name, topology.line, parsed.status().message());
    }
    config.dimensions.push_back({*parsed});
  }
  int64_t num_ranks = 1;
  for (const char* const key : {"npus_count", "bandwidth", "latency"}) {
    ASSIGN_OR_RETURN(const List list, Find(lists, key, name));
    if (list.items.size() != num_dimensions) {
      return Error(name, list.line,
                   absl::StrCat(key, " has ", list.items.size(),
                                " items, topology ", num_dimensions));
    }
    for (size_t i = 0; i < num_dimensions; ++i) {
      NetworkDimension& dimension = config.dimensions[i];
      double value = 0;
      if (!absl::SimpleAtod(list.items[i], &value) || !std::isfinite(value)) {
        return Error(
            name, list.line,
            absl::StrCat(key, " has \"", list.items[i].substr(0, kShownBytes),
                         "\"; want a number"));
      }
      if (absl::string_view(key) == "npus_count") {
        // Counted in doubles: a product of eight cannot overflow there.
        if (value != std::trunc(value) || value < 2 || value > kMaxRanks ||
            value * static_cast<double>(num_ranks) > kMaxRanks) {
          return Error(name, list.line,
                       absl::StrCat("npus_count has ", list.items[i],
                                    "; want whole numbers from 2 on, ",
                                    kMaxRanks, " ranks in all at most"));
        }
        dimension.num_ranks = static_cast<int>(value);
        num_ranks *= dimension.num_ranks;
      } else if (absl::string_view(key) == "bandwidth") {
        if (value <= 0) {
          return Error(name, list.line, "bandwidth must be above 0 GB/s");
        }
        dimension.bandwidth_gbps = value;
      } else {
        if (value < 0) {
          return Error(name, list.line, "latency must not be below 0 ns");
        }
        dimension.latency_ns = value;
      }
    }
  }
  return config;
}

}  // namespace strata::astra
