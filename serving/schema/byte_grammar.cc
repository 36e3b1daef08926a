#include "serving/schema/byte_grammar.h"

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace strata {

int32_t ByteGrammar::AddState() {
  states_.emplace_back();
  return static_cast<int32_t>(states_.size()) - 1;
}

int32_t ByteGrammar::AddRule(std::string path) {
  Rule rule;
  rule.start = AddState();
  rule.path = std::move(path);
  rules_.push_back(std::move(rule));
  return static_cast<int32_t>(rules_.size()) - 1;
}

void ByteGrammar::Range(int32_t from, uint8_t low, uint8_t high, int32_t to) {
  states_[from].edges.push_back({low, high, to});
}

int32_t ByteGrammar::Range(int32_t from, uint8_t low, uint8_t high) {
  const int32_t to = AddState();
  Range(from, low, high, to);
  return to;
}

int32_t ByteGrammar::Text(int32_t from, absl::string_view text) {
  for (const char c : text) {
    const auto byte = static_cast<uint8_t>(c);
    from = Range(from, byte, byte);
  }
  return from;
}

int32_t ByteGrammar::CallRule(int32_t from, int32_t rule) {
  const int32_t to = AddState();
  states_[from].calls.push_back({rule, to});
  return to;
}

void ByteGrammar::SetImpossible(int32_t rule, std::string reason) {
  rules_[rule].impossible = std::move(reason);
}

absl::Status ByteGrammar::Finish(int32_t root) {
  root_ = root;
  // States from which their rule can be brought to an end, each pass finding
  // more, until one finds none.
  std::vector<bool> ends(states_.size());
  const auto call_ends = [&](const Call& call) {
    return ends[rules_[call.rule].start] && ends[call.to];
  };
  for (bool found = true; found;) {
    found = false;
    for (size_t id = states_.size(); id-- > 0;) {
      if (ends[id]) continue;
      const State& s = states_[id];
      ends[id] = s.final ||
                 std::any_of(s.edges.begin(), s.edges.end(),
                             [&](const Edge& e) { return ends[e.to]; }) ||
                 std::any_of(s.jumps.begin(), s.jumps.end(),
                             [&](int32_t to) { return ends[to]; }) ||
                 std::any_of(s.calls.begin(), s.calls.end(), call_ends);
      found = found || ends[id];
    }
  }
  if (!ends[rules_[root].start]) {
    for (const Rule& rule : rules_) {
      if (rule.impossible.empty()) continue;
      return absl::InvalidArgumentError(absl::StrCat(
          rule.path, ": ", rule.impossible, "; nothing satisfies it"));
    }
    for (const Rule& rule : rules_) {
      if (ends[rule.start]) continue;
      return absl::InvalidArgumentError(absl::StrCat(
          rule.path, " demands itself without end; nothing satisfies it"));
    }
  }
  for (State& s : states_) {
    s.edges.erase(std::remove_if(s.edges.begin(), s.edges.end(),
                                 [&](const Edge& e) { return !ends[e.to]; }),
                  s.edges.end());
    s.jumps.erase(std::remove_if(s.jumps.begin(), s.jumps.end(),
                                 [&](int32_t to) { return !ends[to]; }),
                  s.jumps.end());
    s.calls.erase(
        std::remove_if(s.calls.begin(), s.calls.end(),
                       [&](const Call& call) { return !call_ends(call); }),
        s.calls.end());
    for (Call& call : s.calls) call.rule = rules_[call.rule].start;
  }
  return absl::OkStatus();
}

}  // namespace strata
